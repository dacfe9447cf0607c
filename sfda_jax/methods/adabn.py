"""AdaBN: the source model with the target's BatchNorm statistics, nothing trained.

Li et al., "Revisiting Batch Normalization for Practical Domain Adaptation", 2016.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import PyTree

from sfda_jax.data import transforms
from sfda_jax.errors import ConfigError
from sfda_jax.methods.base import MethodBase, RoundContext
from sfda_jax.models.forward import forward
from sfda_jax.types import AdaptState, ModelState, StreamSpec


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method(MethodBase):
    """One round without steps: `begin_round` replaces the student's statistics.

    Attributes:
        batch_size: images whose statistics are pooled in one forward pass.
        num_passes: times the target training set is gone through.
        size: (height, width) of the input.
        blend: weight of the target's statistics, 1.0 = the target's alone.
    """

    batch_size: int = 8
    num_passes: int = 1
    size: tuple[int, int] = (512, 1024)
    blend: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.blend <= 1:
            raise ConfigError(f"adabn: blend is {self.blend}; expected 0 to 1.")
        if self.num_passes < 1:
            raise ConfigError(f"adabn: num_passes is {self.num_passes}; expected >= 1.")

    def begin_round(
        self, ctx: RoundContext, state: AdaptState
    ) -> tuple[AdaptState, Mapping[str, StreamSpec]]:
        """The student with statistics of the target training set, in random order."""
        model = self.model.clone(axis_name=None, bn_momentum=1.0)

        def batch_statistics(variables, images):
            network = ModelState(variables["params"], variables["batch_stats"])
            _, stats = forward(model, network, images, statistics="batch")
            # `ctx.forward` trims batches by row: every image gets all statistics.
            rows = images.shape[:1]
            return jax.tree.map(lambda x: jnp.broadcast_to(x, (*rows, *x.shape)), stats)

        size = len(ctx.images("target"))
        order = np.concatenate(
            [ctx.rng.permutation(size) for _ in range(self.num_passes)]
        )
        pool = _Pool()
        for ids, rows in ctx.forward(
            batch_statistics,
            state.student.variables,
            transform=transforms.Evaluate(size=self.size, gamma=self.gamma),
            batch_size=min(self.batch_size, size),
            order=order,
        ):
            pool.add(jax.tree.map(lambda x: x[0], rows), len(ids))
        stats = pool.blended(state.student.batch_stats, self.blend)
        return state.replace(student=ModelState(state.student.params, stats)), {}


class _Pool:
    """Sums that give mean and variance over all batches, in float64.

    A last batch that was padded counts only if there is no other.
    """

    def __init__(self):
        self._rows = 0
        self._batches = 0
        self._sums = {}

    def add(self, stats: PyTree, rows: int) -> None:
        if rows < self._rows:
            return
        self._rows = rows
        self._batches += 1
        flat = traverse_util.flatten_dict(stats)
        for path in flat:
            if path[-1] == "mean":
                mean, var = (
                    flat[*path[:-1], name].astype(np.float64)
                    for name in ("mean", "var")
                )
                first, second = self._sums.get(path[:-1], (0.0, 0.0))
                self._sums[path[:-1]] = (first + mean, second + var + mean**2)

    def blended(self, source: PyTree, blend: float) -> PyTree:
        flat = dict(traverse_util.flatten_dict(source))
        for path, (first, second) in self._sums.items():
            mean = first / self._batches
            target = {"mean": mean, "var": second / self._batches - mean**2}
            for name, value in target.items():
                old = flat[*path, name]
                mixed = blend * value + (1 - blend) * np.asarray(old, np.float64)
                flat[*path, name] = jnp.asarray(mixed, old.dtype)
        return traverse_util.unflatten_dict(flat)
