"""The few types that every layer speaks: states, batches, targets, stream specs."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol, runtime_checkable

import jax
import numpy as np
from flax import struct
from jaxtyping import Array, Float, PyTree

IGNORE = 255
"""Label value of pixels that no loss, threshold or metric may count."""

Batch = Mapping[str, Array | np.ndarray | Mapping[str, Array | np.ndarray]]
"""A stream's arrays by name, or a step's by stream name: `batch["target"]["images"]`.

Batch axis first, images `uint8[B,H,W,3]` RGB. Methods are given the second form.
"""

Record = Mapping[str, Any]
"""One example: `image` uint8[H,W,3] RGB, `id`, where allowed `label` uint8[H,W].

A stream adds `index`, the example's position in its split.
"""


@runtime_checkable
class RandomAccess(Protocol):
    """A split of a dataset, in its fixed order."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Record: ...


Metrics = Mapping[str, Float[Array, ""]]
Key = jax.Array


@struct.dataclass
class ModelState:
    """One network's variables.

    `params` is what the optimiser and the EMA see. `batch_stats` holds running
    BatchNorm statistics and, for frozen BatchNorm, its affine vectors too.
    """

    params: PyTree
    batch_stats: PyTree

    @property
    def variables(self) -> dict[str, PyTree]:
        """The dict that `model.apply` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}


@struct.dataclass
class AdaptState:
    """Everything that changes while a stage runs; what a checkpoint stores.

    `step` is an int32 scalar. State classes leave their leaves unannotated: the same
    tree also holds shapes (restoring) and one row per device (`pmap`).
    """

    step: PyTree
    student: ModelState
    teacher: ModelState | None
    opt_state: PyTree
    method: PyTree


@struct.dataclass
class SegOutput:
    """What every segmentation network returns, at the network's own stride."""

    logits: Float[Array, "b h w c"]
    features: Float[Array, "b h w d"]
    aux_logits: Float[Array, "b h w c"] | None = None


@struct.dataclass
class Targets:
    """What a method asks the student to fit.

    Leaves are unannotated, as those of states are.

    Attributes:
        labels: int32[B,H,W], `IGNORE` where there is none.
        weights: float32[B,H,W].
        images: float32[B,H,W,3], where `annotate` mixes, warps or masks the student's
            input.
        extras: the method's own.
        queries: what the round's look-ups are asked: name → arrays of the whole global
            batch.
    """

    labels: PyTree
    weights: PyTree
    images: PyTree = None
    extras: PyTree = None
    queries: PyTree = None


@struct.dataclass
class LossAux:
    """By-products of a loss: scalars to log and the student's new statistics.

    `method` replaces `state.method` where the loss moves it, for instance a
    discriminator trained on the same forward pass; None leaves it. Where `skip`, a
    boolean scalar that devices agree on, is true, parameters and moments stay as they
    are; statistics and the schedule go on.
    """

    metrics: Metrics
    batch_stats: PyTree
    method: PyTree = None
    skip: PyTree = None


Transform = Callable[[Record, np.random.Generator], dict[str, np.ndarray]]
"""Host-side example → arrays; pickles, and draws only from the generator given."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StreamSpec:
    """One stream of training batches, as a method asks for it.

    Attributes:
        domain: which side of the task the examples come from; `both` joins the source
            and, behind it, the target, and every record says its `domain`.
        batch_size: global batch, over all processes.
        transform: host augmentation of one example.
        order: dataset indices to visit, in order, `[n]`; None reshuffles the whole
            split every epoch.
    """

    domain: Literal["source", "target", "both"]
    batch_size: int
    transform: Transform
    order: np.ndarray | None = None


Answer = Callable[[PyTree, np.random.Generator, slice], dict[str, np.ndarray]]
"""`(queries, rng, rows)` → arrays of these rows; queries of the whole global batch.

Random decisions are drawn for the whole batch, whichever rows are asked for.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lookup:
    """What a method reads on the host in the middle of a step, by its targets.

    A round may list look-ups among its streams. What one answers stands in the batch
    under its name when the loss is taken; `annotate` does not see it.

    Attributes:
        answer: called with `Targets.queries` of the look-up's name, on the host.
    """

    answer: Answer
