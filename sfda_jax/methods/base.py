"""What a method is: a frozen dataclass of settings and a handful of pure functions."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, PyTree, UInt32

from sfda_jax.data.statistics import ClassPixels
from sfda_jax.tasks import Task
from sfda_jax.types import (
    AdaptState,
    Batch,
    Key,
    LossAux,
    RandomAccess,
    StreamSpec,
    Targets,
    Transform,
)


@runtime_checkable
class LabelStore(Protocol):
    """Per-image label maps of one round, written once and read by the streams."""

    def complete(self) -> bool:
        """Whether the round's maps are all there, as they were written."""

    def write(self, name: str, example_id: str, labels: np.ndarray) -> None:
        """Writes one map, uint8[H,W], under a name such as `candidates`."""

    def read(self, name: str, example_id: str) -> np.ndarray:
        """One map, uint8[H,W]."""

    def finish(self, meta: Mapping[str, Any]) -> None:
        """Marks the round's maps as complete, with what else it must remember."""

    @property
    def meta(self) -> Mapping[str, Any]:
        """What `finish` was given."""


@runtime_checkable
class RoundContext(Protocol):
    """Services the driver lends to `begin_round`; the only way to data and disk.

    Attributes:
        round: index of the round in its stage, from 0.
        num_steps: steps this round will run.
        rng: host generator, a function of (seed, stage, round).
        store: this round's label maps (already complete when a run is resumed).
        previous: the last round's label maps in this stage, or None in round 0.
    """

    round: int
    num_steps: int
    rng: np.random.Generator
    task: Task
    store: LabelStore
    previous: LabelStore | None

    def images(self, domain: str) -> RandomAccess:
        """The training split, random access; target records carry no `label`."""

    def class_pixels(self, domain: str) -> ClassPixels:
        """Pixels of each class in each training image of the source, in its order."""

    def class_maps(
        self, domain: str, size: tuple[int, int]
    ) -> UInt32[np.ndarray, "c h w"]:
        """In how many of the source's training images each class lies at each pixel.

        Labels are resized to `size` (height, width), nearest: the counts that
        `data.statistics` makes spatial priors of.
        """

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
        """Yields (ids, host arrays) of `fn(variables, images)` over the training split.

        File order, or `order`; `fn` is jitted; the last batch is padded and trimmed.
        """


@dataclasses.dataclass(frozen=True, kw_only=True)
class MethodBase:
    """Defaults for the parts that most methods do not need.

    Subclasses are called `Method`, live one per module, and define `begin_round`,
    `annotate` and `loss`. Losses return *this shard's share* of the global loss
    (denominators summed over `axis_name`): the step sums gradients over devices.

    Attributes:
        model: the network, a Linen module.
        task: domains and classes.
        gamma: exponent of a tone curve on every target image the evaluated network
            sees (training, evaluation, prediction); 1.0 leaves images as they are.
        axis_name: device axis under `pmap`, None under `jit`; set by the driver.
    """

    model: nn.Module
    task: Task
    gamma: float = 1.0
    axis_name: str | None = None

    trains_on_source: ClassVar[bool] = False
    retrieve: ClassVar[Callable[[Targets, np.random.Generator], Batch] | None] = None

    def init(self, state: AdaptState, key: Key) -> AdaptState:
        """Fills `state.method` and copies a teacher, once, as the stage starts."""
        return state

    def begin_round(
        self, ctx: RoundContext, state: AdaptState
    ) -> tuple[AdaptState, Mapping[str, StreamSpec]]:
        """Host work of a round; may be slow. Returns the state and the streams."""
        raise NotImplementedError

    def annotate(
        self, state: AdaptState, batch: Batch, key: Key
    ) -> tuple[AdaptState, Targets]:
        """Pure, no gradient: teacher pass, pre-step EMA, mixing."""
        raise NotImplementedError

    def loss(
        self,
        params: PyTree,
        state: AdaptState,
        batch: Batch,
        targets: Targets,
        key: Key,
    ) -> tuple[Float[Array, ""], LossAux]:
        """Pure: this shard's share of the loss, metrics and new statistics."""
        raise NotImplementedError

    def after_update(
        self, state: AdaptState, batch: Batch, targets: Targets, key: Key
    ) -> AdaptState:
        """Pure: what follows the optimiser (post-step EMA, teacher decision)."""
        return state
