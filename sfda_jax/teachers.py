"""Teachers: exponential moving averages, and when to move them (DTU)."""

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int, PyTree

from sfda_jax.errors import ConfigError
from sfda_jax.types import ModelState


def ema(
    teacher: ModelState,
    student: ModelState,
    *,
    decay: float,
    batch_stats: Literal["copy", "average", "leave"],
) -> ModelState:
    """The teacher moved towards the student: `decay * teacher + (1-decay) * student`.

    Args:
        teacher: the average so far.
        student: what is averaged.
        decay: weight of the past, in [0, 1].
        batch_stats: what happens to running statistics: take the student's (`copy`),
            average them too (`average`), or keep the teacher's (`leave`).
    """

    def average(old: PyTree, new: PyTree) -> PyTree:
        return jax.tree.map(lambda a, b: decay * a + (1 - decay) * b, old, new)

    stats = {
        "copy": lambda: student.batch_stats,
        "average": lambda: average(teacher.batch_stats, student.batch_stats),
        "leave": lambda: teacher.batch_stats,
    }[batch_stats]()
    return ModelState(average(teacher.params, student.params), stats)


@struct.dataclass
class DynamicUpdate:
    """Recent batches and their scores, and the outcome of the last decision.

    Attributes:
        scores: of each stored iteration when it was new `[capacity, per]`.
        inputs: what re-scoring needs, leaves `[capacity, ...]`.
        count: iterations stored.
        num_updates: how often the teacher moved.
        queried: whether the last decision re-scored the stored batches.
        updated: whether it moved the teacher.
        interval: scores that were stored at the last update.
        mean_old: mean stored score at the last query.
        mean_new: mean re-score at the last query.
    """

    scores: PyTree
    inputs: PyTree
    count: PyTree
    num_updates: PyTree
    queried: PyTree
    updated: PyTree
    interval: PyTree
    mean_old: PyTree
    mean_new: PyTree

    def metrics(self) -> dict[str, Array]:
        """Scalars for the log. `teacher_updated` is the last decision's."""
        return {
            "dtu_buffer": self.count,
            "dtu_interval": self.interval,
            "dtu_score_old": self.mean_old,
            "dtu_score_new": self.mean_new,
            "teacher_updated": self.updated,
            "teacher_updates": self.num_updates,
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class UpdateRule:
    """When the dynamic update asks whether the student has become better.

    With n things stored it asks at n = start, start+step, …; the teacher moves if
    more than half of the stored scores grew, or if n > maximum (DT-ST Sec. 3.2).

    Attributes:
        start: first n that asks.
        step: distance between two questions.
        maximum: beyond it the teacher moves anyway.
        count: what n counts, `iterations` or `images`.
        per_iteration: scores stored per iteration.
    """

    start: int = 9
    step: int = 3
    maximum: int = 30
    count: str = "iterations"
    per_iteration: int = 1

    def stored(self, iterations: Int[Array, ""] | int) -> Int[Array, ""] | int:
        """n after so many iterations."""
        return iterations * (self.per_iteration if self.count == "images" else 1)

    @property
    def capacity(self) -> int:
        """Iterations the buffer can ever hold: the first question beyond `maximum`.

        Raises:
            ConfigError: no question ever comes (counts step over them).
        """
        for iterations in range(1, self.maximum + self.start + self.step + 2):
            n = self.stored(iterations)
            asks = n >= self.start and (n - self.start) % self.step == 0
            if asks and n > self.maximum:
                return iterations
        raise ConfigError(
            f"The dynamic update never decides: n grows by {self.stored(1)} and is "
            f"asked at {self.start} + k * {self.step}.",
            hint="Choose a start and a step that it meets.",
        )

    def init(self, inputs: PyTree) -> DynamicUpdate:
        """An empty buffer for inputs with the shapes and dtypes of one iteration's."""
        n = self.capacity
        # One array each: a donated state must not hold a buffer twice.
        return DynamicUpdate(
            scores=jnp.zeros((n, self.per_iteration)),
            inputs=jax.tree.map(lambda x: jnp.zeros((n, *x.shape), x.dtype), inputs),
            count=jnp.zeros((), jnp.int32),
            num_updates=jnp.zeros((), jnp.int32),
            queried=jnp.zeros((), bool),
            updated=jnp.zeros((), bool),
            interval=jnp.zeros((), jnp.int32),
            mean_old=jnp.zeros(()),
            mean_new=jnp.zeros(()),
        )

    def push(
        self, state: DynamicUpdate, scores: Float[Array, " p"], inputs: PyTree
    ) -> DynamicUpdate:
        """The buffer with one more iteration: its scores and what made them."""

        def put(buffer, row):
            return jax.lax.dynamic_update_index_in_dim(buffer, row, state.count, 0)

        return state.replace(
            scores=put(state.scores, scores.astype(state.scores.dtype)),
            inputs=jax.tree.map(put, state.inputs, inputs),
            count=state.count + 1,
        )

    def decide(
        self,
        state: DynamicUpdate,
        rescore: Callable[[PyTree], Float[Array, " p"]],
    ) -> DynamicUpdate:
        """The buffer after this iteration's decision; emptied if the teacher moves.

        Gains are strict and so is the majority. Only what is stored is re-scored, and
        only when the rule asks.

        Args:
            state: the buffer, this iteration's scores pushed.
            rescore: the updated student's scores of one stored iteration's inputs.
        """
        n = self.stored(state.count)
        queried = (n >= self.start) & ((n - self.start) % self.step == 0)

        def ask(scores):
            def body(i, new):
                inputs = jax.tree.map(lambda x: x[i], state.inputs)
                return new.at[i].set(rescore(inputs).astype(new.dtype))

            return jax.lax.fori_loop(0, state.count, body, jnp.zeros_like(scores))

        new = jax.lax.cond(queried, ask, jnp.zeros_like, state.scores)
        integer = state.count.dtype
        held = (jnp.arange(new.shape[0], dtype=integer) < state.count)[:, None]
        total = state.count * new.shape[1]
        gains = ((new - state.scores > 0) & held).sum(dtype=integer)
        updated = queried & ((2 * gains > total) | (n > self.maximum))

        def mean(scores, before):
            value = jnp.where(held, scores, 0).sum() / total.astype(scores.dtype)
            return jnp.where(queried, value, before)

        return state.replace(
            count=jnp.where(updated, 0, state.count),
            num_updates=state.num_updates + updated.astype(jnp.int32),
            queried=queried,
            updated=updated,
            interval=jnp.where(updated, n, state.interval),
            mean_old=mean(state.scores, state.mean_old),
            mean_new=mean(new, state.mean_new),
        )
