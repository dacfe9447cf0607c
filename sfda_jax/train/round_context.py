"""What the driver lends to `begin_round`: data, label store, forward passes."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jaxtyping import Array, PyTree, UInt32

from sfda_jax.data.access import DataAccess
from sfda_jax.data.statistics import ClassPixels
from sfda_jax.data.streams import evaluation_batches
from sfda_jax.pseudo_labels.store import PseudoLabelStore
from sfda_jax.tasks import Task
from sfda_jax.train.parallel import Parallel
from sfda_jax.train.recipe import Recipe
from sfda_jax.types import RandomAccess, Transform


@dataclasses.dataclass(frozen=True, kw_only=True)
class RoundContext:
    """One round's services; see `methods.base.RoundContext`."""

    round: int
    num_steps: int
    rng: np.random.Generator
    task: Task
    store: PseudoLabelStore
    previous: PseudoLabelStore | None
    access: DataAccess
    parallel: Parallel

    def images(self, domain: str) -> RandomAccess:
        """The training split; target records carry no label."""
        return self.access.train(domain)

    def class_pixels(self, domain: str) -> ClassPixels:
        """Pixels of each class in each training image of the source."""
        return self.access.class_pixels(domain)

    def class_maps(
        self, domain: str, size: tuple[int, int]
    ) -> UInt32[np.ndarray, "c h w"]:
        """In how many of the source's training images each class lies where."""
        return self.access.class_maps(domain, size)

    def forward(
        self,
        fn: Callable[[PyTree, Array], PyTree],
        variables: PyTree,
        *,
        domain: str = "target",
        transform: Transform,
        batch_size: int,
        order: np.ndarray | None = None,
    ) -> Iterator[tuple[list[str], PyTree]]:
        """Yields (ids, host arrays) over a training split, in file order or `order`."""
        devices = self.parallel.num_devices
        batch_size = -(-batch_size // devices) * devices
        compiled = self.parallel.compile_forward(fn)
        source = self.images(domain)
        for ids, arrays in evaluation_batches(
            source, transform, batch_size, order=order
        ):
            images = _padded(arrays["images"], batch_size)
            results = jax.device_get(compiled(variables, images))
            count = len(ids)
            yield ids, jax.tree.map(lambda x, n=count: x[:n], results)


def round_dir(run_dir: pathlib.Path, recipe: Recipe, stage: int, round_: int):
    """Where a round keeps its files."""
    name = f"{stage + 1:02d}-{recipe.stages[stage].name}"
    return run_dir / "stages" / name / "rounds" / f"{round_:02d}"


def round_store(
    run_dir: pathlib.Path, recipe: Recipe, stage: int, round_: int
) -> PseudoLabelStore:
    """The label maps of one round; only the first process writes."""
    folder = round_dir(run_dir, recipe, stage, round_)
    writable = jax.process_index() == 0
    return PseudoLabelStore(folder / "pseudo_labels", writable=writable)


def make_round_context(
    run_dir: pathlib.Path,
    recipe: Recipe,
    *,
    stage: int,
    round_: int,
    access: DataAccess,
    parallel: Parallel,
) -> RoundContext:
    """The services of one round."""
    previous = round_store(run_dir, recipe, stage, round_ - 1) if round_ else None
    return RoundContext(
        round=round_,
        num_steps=recipe.stages[stage].rounds[round_].num_steps,
        rng=np.random.default_rng((recipe.seed, stage, round_)),
        task=recipe.task,
        store=round_store(run_dir, recipe, stage, round_),
        previous=previous,
        access=access,
        parallel=parallel,
    )


def _padded(x: np.ndarray, size: int) -> np.ndarray:
    """The last batch repeats its last image, so that one program fits all."""
    missing = size - x.shape[0]
    return x if missing <= 0 else np.concatenate([x, np.repeat(x[-1:], missing, 0)])
