"""Instance-adaptive thresholds (IAS of IAST): an average of quantiles that moves.

Mei et al., "Instance Adaptive Self-Training for Unsupervised Domain Adaptation", ECCV
2020, Eqs. 6 and 7; section 3 of the specification, exact to the bit. Confidences enter
the quantiles as float16, whose bit patterns between 0 and 1 are few and rise with the
value: a histogram over them, made on the device, is the whole sorted list.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Float64, Int32, Int64, UInt8

from sfda_jax.errors import ConfigError, TrainingError
from sfda_jax.pseudo_labels.selector import State
from sfda_jax.pseudo_labels.single_pass import SinglePass
from sfda_jax.pseudo_labels.threshold import likeliest, lowest_reaching, reaching

_VALUES = np.arange(0x3C00 + 1, dtype=np.uint16).view(np.float16).astype(np.float64)
NUM_VALUES = len(_VALUES)
"""Float16 numbers from 0 to 1."""


def confidence_histogram(
    labels: UInt8[Array, "b h w"],
    confidence: Float32[Array, "b h w"],
    num_classes: int,
) -> Int32[Array, "b {num_classes} v"]:
    """Pixels of each image, predicted class and float16 confidence, `[B,C,15361]`.

    Confidences are rounded to the nearest float16, ties to even. Scores that leave
    0 to 1, as interpolated class maps may, count at the end they leave by.
    """
    half = jax.lax.bitcast_convert_type(confidence.astype(jnp.float16), jnp.int16)
    bits = jnp.clip(half.astype(jnp.int32), 0, NUM_VALUES - 1)

    def histogram(labels, bits):
        return jnp.zeros((num_classes, NUM_VALUES), jnp.int32).at[labels, bits].add(1)

    return jax.vmap(histogram)(labels.astype(jnp.int32), bits)


def instance_thresholds(
    counts: Int64[np.ndarray, "c v"],
    thresholds: Float64[np.ndarray, "c"],
    *,
    alpha: float,
    gamma: float,
) -> Float32[np.ndarray, "c"]:
    """An instance's own thresholds psi `[C]`: quantiles of its confidences (Eq. 7).

    Of class c it is the quantile 1 - alpha * threshold[c]**gamma, interpolated
    linearly, of the instance's confidences and the previous threshold: published code
    starts the list with it, so that an absent class keeps what it had.

    Args:
        counts: histogram of the instance's pixels `[C,15361]`.
        thresholds: before this instance `[C]`.
        alpha: share to keep of a class whose threshold is 1.
        gamma: how much smaller the share of classes with low thresholds is.
    """
    found = []
    for count, threshold in zip(counts, thresholds.tolist(), strict=True):
        # Through per cent and back, as published: it can move the last bit.
        portion = (100 * (1 - alpha * threshold**gamma)) / 100
        found.append(_quantile(count, threshold, portion))
    return np.asarray(found, np.float32)


def moved_thresholds(
    thresholds: Float64[np.ndarray, "c"],
    instance: Float32[np.ndarray, "c"],
    *,
    beta: float,
    cap: float,
) -> Float64[np.ndarray, "c"]:
    """The thresholds after one instance (Eq. 6); those that reach 1 become `cap`."""
    share = np.float32(1 - beta) * instance  # rounded to float32, as published
    moved = beta * thresholds + share.astype(np.float64)
    return np.where(moved >= 1, cap, moved)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Selector(SinglePass):
    """IAS: each instance moves the thresholds, and is labelled with the moved ones.

    A pixel keeps its label where its float32 confidence is at least its class's
    threshold. The state holds the thresholds after every instance (`trace`
    `[1+instances,C]`, the initial ones first) and the number of images seen.

    Attributes:
        alpha: share of a class's pixels that an instance would keep.
        beta: weight of the past; 1 keeps `theta0`, 0 forgets.
        gamma: hard-class decay of the share.
        theta0: threshold of every class before the first image of a round.
        cap: replaces thresholds that reach 1.
        instance_size: images pooled into one instance; 2 as published, 1 in the paper.
            Batches of the labelling pass hold whole instances, but for the last.
    """

    alpha: float = 0.2
    beta: float = 0.9
    gamma: float = 8.0
    theta0: float = 0.9
    cap: float = 0.999
    instance_size: int = 2

    sequential: ClassVar[bool] = True

    def __post_init__(self):
        for name in ("alpha", "beta", "theta0", "cap"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ConfigError(
                    f"selector.{name} is {value}; it lies between 0 and 1."
                )
        if self.gamma < 0:
            raise ConfigError(f"selector.gamma is {self.gamma}; it is at least 0.")
        if self.instance_size < 1:
            raise ConfigError(
                f"selector.instance_size is {self.instance_size}; it is at least 1."
            )

    def init(self, num_classes: int) -> State:
        """`theta0` for every class."""
        return {
            "trace": np.full((1, num_classes), self.theta0, np.float64),
            "images": np.asarray(0, np.int64),
        }

    def thresholds(self, state: State) -> Float32[np.ndarray, "c"]:
        """The current thresholds, as a float32 confidence meets them."""
        return lowest_reaching(state["trace"][-1])

    def propose(
        self, probs: Float[Array, "b h w c"], thresholds: Float32[Array, "c"]
    ) -> Mapping[str, Array]:
        """Device: labels, confidences and their histogram; no threshold is needed."""
        labels, confidence = likeliest(probs)
        histogram = confidence_histogram(labels, confidence, probs.shape[-1])
        return {"labels": labels, "confidence": confidence, "histogram": histogram}

    def select(
        self, state: State, proposed: Mapping[str, np.ndarray]
    ) -> tuple[State, UInt8[np.ndarray, "b h w"]]:
        """Moves the thresholds instance by instance, and labels with the moved ones.

        Raises:
            ConfigError: an earlier batch ended within an instance.
            TrainingError: the network's scores are not numbers.
        """
        self._check(state, proposed)
        trace, labels = list(state["trace"]), []
        num_images = len(proposed["labels"])
        for first in range(0, num_images, self.instance_size):
            own = slice(first, first + self.instance_size)
            counts = proposed["histogram"][own].sum(axis=0, dtype=np.int64)
            instance = instance_thresholds(
                counts, trace[-1], alpha=self.alpha, gamma=self.gamma
            )
            moved = moved_thresholds(trace[-1], instance, beta=self.beta, cap=self.cap)
            trace.append(moved)
            found, confidence = proposed["labels"][own], proposed["confidence"]
            labels.append(reaching(found, confidence[own], lowest_reaching(moved)))
        images = np.asarray(state["images"] + num_images)
        return {"trace": np.stack(trace), "images": images}, np.concatenate(labels)

    def summary(self, state: State) -> dict[str, Any]:
        """The last thresholds, and the `trace`: at first and after every instance."""
        trace = state["trace"].tolist()
        return {"thresholds": trace[-1], "trace": trace}

    def _check(self, state: State, proposed: Mapping[str, np.ndarray]) -> None:
        seen = int(state["images"])
        if seen % self.instance_size:
            raise ConfigError(
                f"The labelling pass stopped after {seen} images, within an instance "
                f"of {self.instance_size} (selector.instance_size).",
                hint="Make inference.batch_size a multiple of it.",
            )
        if not np.isfinite(proposed["confidence"]).all():
            raise TrainingError(
                f"The labelling network's scores are not finite in images {seen + 1} "
                f"to {seen + len(proposed['labels'])} of the pass.",
                hint="Look at the loss of the stage that made it (labels_from).",
            )


def _quantile(
    counts: Int64[np.ndarray, "v"], extra: float, portion: float
) -> float | np.floating:
    """The quantile of `_VALUES`, each so many times, and of one number more.

    Interpolates as NumPy does: from the nearer neighbour.
    """
    until = np.cumsum(counts)
    place = int(counts[: np.searchsorted(_VALUES, extra)].sum())

    def ranked(rank: int):
        if rank == place:
            return extra
        return _VALUES[np.searchsorted(until, rank - (rank > place), side="right")]

    last = int(until[-1])  # the extra number makes it the highest rank
    rank = last * portion
    low = int(np.floor(rank))
    a, b, part = ranked(low), ranked(min(low + 1, last)), rank - low
    return a + (b - a) * part if part < 0.5 else b - (b - a) * (1 - part)
