"""A step with look-ups: targets, what the host reads for them, and then the rest."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax
from jaxtyping import PyTree

from sfda_jax.methods.base import MethodBase
from sfda_jax.train.parallel import Parallel
from sfda_jax.train.step import make_step_halves, make_train_step
from sfda_jax.types import AdaptState, Batch, Key, Lookup, StreamSpec


def split_streams(
    streams: Mapping[str, StreamSpec | Lookup],
) -> tuple[dict[str, StreamSpec], dict[str, Lookup]]:
    """The streams and the look-ups of a round."""
    specs, lookups = {}, {}
    for name, entry in streams.items():
        (lookups if isinstance(entry, Lookup) else specs)[name] = entry
    return specs, lookups


def compile_round(
    parallel: Parallel,
    method: MethodBase,
    optimizer: optax.GradientTransformation,
    *,
    lookups: Mapping[str, Lookup],
    seed: Sequence[int],
) -> Callable[[AdaptState, Batch, Key], tuple[AdaptState, PyTree]]:
    """The compiled step of a round; in halves only where something is looked up.

    Args:
        parallel: devices and mode.
        method: not localised.
        optimizer: of the student.
        lookups: of the round, by name.
        seed: integers that name the round.
    """
    method = parallel.localise(method)
    if not lookups:
        return parallel.compile_step(make_train_step(method, optimizer))
    annotate, update = parallel.compile_halves(*make_step_halves(method, optimizer))
    return LookupStep(
        parallel=parallel,
        annotate=annotate,
        update=update,
        lookups=lookups,
        seed=seed,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LookupStep:
    """The compiled halves of a step as one `step(state, batch, key)`.

    What is looked up is a function of the seed and the step's number, like a stream.

    Attributes:
        parallel: devices.
        annotate: `(state, batch, key)` → state, targets, queries, step number.
        update: `(state, batch, targets, key)` → state, metrics.
        lookups: by name, in the batch and in the queries.
        seed: integers that name the round.
    """

    parallel: Parallel
    annotate: Callable[..., Any]
    update: Callable[..., Any]
    lookups: Mapping[str, Lookup]
    seed: Sequence[int]

    def __call__(
        self, state: AdaptState, batch: Batch, key: Key
    ) -> tuple[AdaptState, PyTree]:
        """One step, as `Parallel.put_state` and `put_batch` place what it takes.

        The state is donated; metrics are one per device under `pmap`.
        """
        state, targets, found = self._looked_up(self.annotate, state, batch, key)
        return self.update(state, {**batch, **found}, targets, key)

    def lower(self, state: AdaptState, batch: Batch, key: Key) -> "_Lowered":
        """As of a jitted function; runs the first half once, on a copy of the state."""
        copied = jax.tree.map(lambda x: x.copy(), state)
        copied, targets, found = self._looked_up(self.annotate, copied, batch, key)
        return _Lowered(
            step=self,
            annotate=self.annotate.lower(state, batch, key),
            update=self.update.lower(copied, {**batch, **found}, targets, key),
        )

    def _looked_up(self, annotate, state, batch, key):
        """State, targets, and the arrays of every look-up, on the devices."""
        state, targets, queries, number = annotate(state, batch, key)
        queries, number = self.parallel.get_metrics((queries, number))
        found = {}
        for place, (name, lookup) in enumerate(self.lookups.items()):
            size = len(jax.tree.leaves(queries[name])[0])
            arrays = lookup.answer(
                queries[name],
                np.random.default_rng((*self.seed, place, int(number))),
                self.parallel.local_rows(size),
            )
            found[name] = self.parallel.put_batch(arrays)
        return state, targets, found


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Lowered:
    step: LookupStep
    annotate: Any
    update: Any

    def compile(self) -> "CompiledLookupStep":
        """Both halves, ready to run."""
        halves = {"annotate": self.annotate.compile(), "update": self.update.compile()}
        return CompiledLookupStep(step=dataclasses.replace(self.step, **halves))


@dataclasses.dataclass(frozen=True)
class CompiledLookupStep:
    """A compiled `LookupStep`."""

    step: LookupStep

    def __call__(
        self, state: AdaptState, batch: Batch, key: Key
    ) -> tuple[AdaptState, PyTree]:
        """One step."""
        return self.step(state, batch, key)

    def memory_analysis(self) -> Any:
        """Of the second half, which holds the gradient."""
        return self.step.update.memory_analysis()
