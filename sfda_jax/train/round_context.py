"""What the driver lends to `begin_round`: data, label store, forward passes."""

import collections
import dataclasses
import pathlib
from collections.abc import Callable, Iterator

import jax
import numpy as np
from flax import linen as nn
from jaxtyping import Num, PyTree, UInt32

from sfda_jax.data.access import DataAccess
from sfda_jax.data.statistics import ClassPixels
from sfda_jax.data.streams import evaluation_batches
from sfda_jax.ops import processes
from sfda_jax.pseudo_labels.gaussian_mixtures import Mixtures
from sfda_jax.pseudo_labels.store import PseudoLabelStore
from sfda_jax.tasks import Task
from sfda_jax.train.interrupt import Interrupted
from sfda_jax.train.origins import is_own, origin_network, own_position
from sfda_jax.train.parallel import Parallel
from sfda_jax.train.recipe import Recipe
from sfda_jax.train.states import read_file
from sfda_jax.types import ModelState, RandomAccess, Transform
from sfda_jax.weights.mixture_files import read_mixtures, write_mixtures

MIXTURES = "mixtures.npz"
"""Prototypes in a round's folder."""

# Batches on the device while the host works on the results of one.
_IN_FLIGHT = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class RoundContext:
    """One round's services; see `pseudo_labels.services.RoundContext`."""

    round: int
    num_steps: int
    rng: np.random.Generator
    task: Task
    store: PseudoLabelStore
    previous: PseudoLabelStore | None
    labeller: ModelState | None
    folder: pathlib.Path
    scratch: pathlib.Path
    trial: bool
    access: DataAccess
    parallel: Parallel
    stop: Callable[[], int]
    stage_folder: Callable[[str], pathlib.Path]

    def stage_store(self, origin: str) -> PseudoLabelStore:
        """The label maps of an earlier stage's round."""
        return _store(self.stage_folder(origin))

    def network(self, model: nn.Module, path: str) -> ModelState:
        """The variables of another network, from a published file."""
        return read_file(path, model).state

    def keep_mixtures(self, mixtures: Mixtures) -> None:
        """Writes prototypes into the round's folder."""
        if not jax.process_index():
            write_mixtures(self.folder / MIXTURES, mixtures)

    def mixtures(self, origin: str = "") -> Mixtures | None:
        """Prototypes of a file, of an earlier stage, or of this round if it has any."""
        path = self.folder / MIXTURES if not origin else pathlib.Path(origin)
        if is_own(origin):
            path = self.stage_folder(origin) / MIXTURES
        if not origin and not path.is_file():
            return None
        return read_mixtures(path, self.task.classes.num_classes)

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

    def total(self, counts: Num[np.ndarray, "..."]) -> Num[np.ndarray, "..."]:
        """The elementwise sum of every process's array; exact for integers."""
        return processes.total(counts)

    def forward(
        self,
        fn: Callable[[PyTree, PyTree], PyTree],
        variables: PyTree,
        *,
        domain: str = "target",
        transform: Transform,
        inputs: tuple[str, ...] = ("images",),
        batch_size: int,
        order: np.ndarray | None = None,
        start: int = 0,
        shared: bool = False,
    ) -> Iterator[tuple[list[str], PyTree]]:
        """Yields (ids, host arrays) over a training split, in file order or `order`."""
        source = self.images(domain)
        positions = np.arange(len(source)) if order is None else np.asarray(order)
        if shared:
            positions = positions[jax.process_index() :: jax.process_count()]
        positions = positions[start * batch_size :]
        if not len(positions):
            return
        compiled, placed = self.parallel.compile_forward(
            fn, variables, rows=batch_size, shared=shared
        )
        running = collections.deque()
        with evaluation_batches(
            source, transform, batch_size, order=positions
        ) as batches:
            for ids, arrays in batches:
                if signal_number := self.stop():
                    raise Interrupted(signal_number)
                given = {name: _padded(arrays[name], batch_size) for name in inputs}
                alone = given[inputs[0]] if len(inputs) == 1 else given
                results = compiled(placed, alone)
                running.append((ids, results))
                if len(running) > _IN_FLIGHT:
                    yield _fetched(*running.popleft())
        while running:
            yield _fetched(*running.popleft())


def round_dir(run_dir: pathlib.Path, recipe: Recipe, stage: int, round_: int):
    """Where a round keeps its files."""
    name = f"{stage + 1:02d}-{recipe.stages[stage].name}"
    return run_dir / "stages" / name / "rounds" / f"{round_:02d}"


def round_store(
    run_dir: pathlib.Path, recipe: Recipe, stage: int, round_: int
) -> PseudoLabelStore:
    """The label maps of one round."""
    return _store(round_dir(run_dir, recipe, stage, round_))


def _store(folder: pathlib.Path) -> PseudoLabelStore:
    part = (jax.process_index(), jax.process_count())
    return PseudoLabelStore(folder / "pseudo_labels", part=part)


def make_round_context(
    run_dir: pathlib.Path,
    recipe: Recipe,
    *,
    stage: int,
    round_: int,
    access: DataAccess,
    parallel: Parallel,
    stop: Callable[[], int] = lambda: 0,
    trial: bool = False,
) -> RoundContext:
    """The services of one round; `stop` is asked between two forward passes.

    A trial labels with the student: no other network of the run is there.
    """
    labels_from = "" if trial else recipe.stages[stage].rounds[round_].labels_from
    labeller = origin_network(recipe, run_dir, labels_from) if labels_from else None
    scratch = f"scratch-{jax.process_index():03d}"
    previous = round_store(run_dir, recipe, stage, round_ - 1) if round_ else None

    folder = round_dir(run_dir, recipe, stage, round_)

    def stage_folder(origin: str) -> pathlib.Path:
        found = own_position(recipe, origin)
        return round_dir(run_dir, recipe, found.stage, found.round)

    return RoundContext(
        round=round_,
        num_steps=recipe.stages[stage].rounds[round_].num_steps,
        rng=np.random.default_rng((recipe.seed, stage, round_)),
        task=recipe.stages[stage].task,
        store=_store(folder),
        previous=previous,
        labeller=labeller,
        folder=folder,
        scratch=folder / scratch,
        trial=trial,
        access=access,
        parallel=parallel,
        stop=stop,
        stage_folder=stage_folder,
    )


def _fetched(ids: list[str], results: PyTree) -> tuple[list[str], PyTree]:
    """What the device gave, on the host, without the copies that filled the batch."""
    host = jax.device_get(results)
    return ids, jax.tree.map(lambda x: x[: len(ids)], host)


def _padded(x: np.ndarray, size: int) -> np.ndarray:
    """The last batch repeats its last image, so that one program fits all."""
    missing = size - x.shape[0]
    return x if missing <= 0 else np.concatenate([x, np.repeat(x[-1:], missing, 0)])
