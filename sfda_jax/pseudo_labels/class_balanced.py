"""Class-balanced self-training: the most confident share of every class (CBST, CRST).

A measuring pass collects the confidences of the predicted classes, every `stride`-th
pixel of each class in each image; the class's threshold is the value that a `portion`
of them reaches. The labelling pass divides each score by its class's threshold: the
highest ratio is the label, kept where it is at least 1. CRST's label regularisation
(LRENT) makes soft labels of the same ratios.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int64, PyTree, UInt8

from sfda_jax.errors import ConfigError
from sfda_jax.pseudo_labels.confidence_histogram import Histogram
from sfda_jax.pseudo_labels.confidence_ranks import Accumulator, Radix
from sfda_jax.pseudo_labels.confidence_spool import Spool
from sfda_jax.pseudo_labels.selector import State, Total
from sfda_jax.pseudo_labels.threshold import check_finite, likeliest
from sfda_jax.registry import check_choice
from sfda_jax.types import IGNORE

_CHOICES = {
    "policy": ("class", "global"),
    "rank": ("floor", "round"),
    "sizes": ("lists", "pixels"),
    "accumulate": ("exact_spool", "exact_radix", "hist"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Selector:
    """Thresholds of CBST by default; see `pseudo_labels.selector.Selector`.

    Attributes:
        portion: share of each class's pixels to keep.
        policy: `class`, or `global`: one threshold for all classes (ST).
        stride: every so many-th pixel of a class in an image counts, in row-major
            order from its first.
        rank: how portion × pixels becomes a rank: `floor` as published, or `round` as
            in the paper.
        extra_zero: every class that occurs counts one value 0 more, as CBST's code
            does (one per class and one more under `global`); CRST's does not.
        sizes: what mining calls the size of a class: `lists`, the values counted for
            its threshold (CBST), or `pixels`, all that are predicted as it (CRST).
        accumulate: `exact_spool` keeps 5 bytes per counted pixel on disk;
            `exact_radix` measures twice, in constant memory; `hist` measures once, in
            constant memory, to a known error.
        mantissa_bits: of `hist`: its error is 2^-bits of the distance to 1.
        k_absent: threshold of a class without one (absent, or rank 0); None for the
            mean of those found. A threshold of 0 counts as none, as in CBST.
        soft_alpha: LRENT's weight of the entropy; 0 for hard labels.
    """

    portion: float = 0.2
    policy: Literal["class", "global"] = "class"
    stride: int = 4
    rank: Literal["floor", "round"] = "floor"
    extra_zero: bool = True
    sizes: Literal["lists", "pixels"] = "lists"
    accumulate: Literal["exact_spool", "exact_radix", "hist"] = "exact_spool"
    mantissa_bits: int = 12
    k_absent: float | None = 1.0
    soft_alpha: float = 0.0

    sequential: ClassVar[bool] = False

    def __post_init__(self):
        for name, choices in _CHOICES.items():
            check_choice(f"selector.{name}", getattr(self, name), choices)
        limits = {
            "portion": (0, 1),
            "stride": (1, np.inf),
            "mantissa_bits": (1, 23),
            "soft_alpha": (0, np.inf),
            "k_absent": (np.finfo(np.float32).tiny, np.inf),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ConfigError(
                    f"selector.{name} is {value}.",
                    hint=f"Give a value from {low} to {high}.",
                )

    @property
    def num_measures(self) -> int:
        """Passes before the labelling one."""
        return self._accumulator.passes

    def init(self, num_classes: int) -> State:
        """No pixel counted; no class has a threshold."""
        groups = num_classes if self.policy == "class" else 1
        return {
            "passes": np.array(0),
            "samples": np.zeros(num_classes, np.int64),
            "pixels": np.zeros(num_classes, np.int64),
            "thresholds": np.ones(num_classes, np.float32),
            **self._accumulator.init(groups),
        }

    def measure(self, probs: Float[Array, "b h w c"]) -> Mapping[str, Array]:
        """Every pixel's class, the first of the best, and its score."""
        labels, confidence = likeliest(probs)
        return {"labels": labels, "confidence": confidence}

    def update(self, state: State, measured: PyTree, *, scratch: pathlib.Path) -> State:
        """Counts one batch.

        Raises:
            TrainingError: a score is not finite, or the disk is full.
        """
        own, num_classes = _own(state), len(state["pixels"])
        counts = {name: state[name].copy() for name in ("samples", "pixels")}
        for labels, confidence in zip(
            measured["labels"], measured["confidence"], strict=True
        ):
            check_finite(confidence)
            pixels = np.bincount(labels.reshape(-1), minlength=num_classes)
            places = sampled_places(labels, pixels, stride=self.stride)
            sampled = -(-pixels // self.stride)
            groups = np.repeat(np.arange(num_classes, dtype=np.uint8), sampled)
            if self.policy == "global":
                groups[:] = 0
            values = confidence.reshape(-1)[places]
            own = self._accumulator.add(own, groups, values, scratch=scratch)
            counts["pixels"] += pixels
            counts["samples"] += sampled
        first = not state["passes"]  # later passes see the same pixels again
        return {**state, **own, **(counts if first else {})}

    def settle(self, state: State, *, scratch: pathlib.Path, total: Total) -> State:
        """Ends a pass; after the last one, the thresholds are known."""
        samples, pixels = state["samples"], state["pixels"]
        if not state["passes"]:
            samples, pixels = total(samples), total(pixels)
        lists = self._lists(samples)
        lengths = lists.sum(1)
        own = self._accumulator.settle(
            _own(state),
            ranks=self._ranks(lengths),
            zeros=lists[:, 1],
            scratch=scratch,
            total=total,
        )
        thresholds = state["thresholds"]
        if "found" in own:
            thresholds = self._thresholds(lengths, own["found"])
            thresholds = np.resize(thresholds, len(samples))
        return {
            "passes": np.asarray(state["passes"] + 1),
            "samples": samples,
            "pixels": pixels,
            "thresholds": thresholds,
            **own,
        }

    def thresholds(self, state: State) -> Float32[np.ndarray, "c"]:
        """Those found; 1 before the measuring passes."""
        return state["thresholds"]

    def propose(
        self, probs: Float[Array, "b h w c"], thresholds: Float32[Array, "c"]
    ) -> Mapping[str, Array]:
        """`labels` uint8[b,h,w]; and `soft` float16[b,h,w,C] where `soft_alpha` > 0."""
        scores = probs.astype(jnp.float32)
        if not self.soft_alpha:
            return {"labels": assign_hard(scores, thresholds)}
        soft, labels = assign_lrent(scores, thresholds, alpha=self.soft_alpha)
        return {"labels": labels, "soft": soft.astype(jnp.float16)}

    def select(
        self, state: State, proposed: Mapping[str, np.ndarray]
    ) -> tuple[State, UInt8[np.ndarray, "b h w"]]:
        """What was proposed: thresholds do not move while labelling."""
        return state, proposed["labels"]

    def summary(self, state: State) -> dict[str, Any]:
        """Thresholds, and the counts that led to them, as lists over the classes.

        `thresholds`, `samples` and `pixels` (counted, and all that are predicted as the
        class), `ranks`, `sizes` (see the attribute). With `hist` also, by class or one
        for all: `samples_in_bin` and `rank_error`, the share of the values that lie in
        the threshold's bin; `threshold_error`, the most it can lie below the exact one;
        `scores_above_one`, which counted as 1.
        """
        num_classes = len(state["samples"])
        lengths = self._lists(state["samples"]).sum(1)
        sizes = state["pixels"]
        if self.sizes == "lists":
            sizes = np.resize(lengths, num_classes)
        found = {
            "thresholds": state["thresholds"],
            "samples": state["samples"],
            "pixels": state["pixels"],
            "ranks": np.resize(self._ranks(lengths), num_classes),
            "sizes": sizes,
        }
        if "in_bin" in state:
            error = self._accumulator.error(state["found"])
            found |= {
                "samples_in_bin": state["in_bin"],
                "rank_error": state["in_bin"] / np.maximum(lengths, 1),
                "threshold_error": np.where(self._ranks(lengths), error, 0),
                "scores_above_one": state["above_one"],
            }
        return {name: value.tolist() for name, value in found.items()}

    @property
    def _accumulator(self) -> Accumulator:
        if self.accumulate == "hist":
            return Histogram(self.mantissa_bits)
        return Spool() if self.accumulate == "exact_spool" else Radix()

    def _lists(self, samples: Int64[np.ndarray, "c"]) -> Int64[np.ndarray, "g 2"]:
        """Of each list of confidences: how many were counted, and its extra zeros."""
        if self.policy == "class":
            return np.stack([samples, (samples > 0) * self.extra_zero], axis=1)
        extra = (len(samples) + 1) * self.extra_zero
        return np.array([[samples.sum(), extra]])

    def _ranks(self, lengths: Int64[np.ndarray, "g"]) -> Int64[np.ndarray, "g"]:
        """From the top, 1 is the first; 0 takes none."""
        round_ = np.floor if self.rank == "floor" else np.rint
        return round_(lengths * self.portion).astype(np.int64)

    def _thresholds(
        self, lengths: Int64[np.ndarray, "g"], found: Float32[np.ndarray, "g"]
    ) -> Float32[np.ndarray, "g"]:
        """With `k_absent` where there is none."""
        exists = (self._ranks(lengths) > 0) & (found > 0)
        absent = self.k_absent
        if absent is None:
            absent = found[exists].mean(dtype=np.float64) if exists.any() else 1
        return np.where(exists, found, np.float32(absent))


def sampled_places(
    labels: UInt8[np.ndarray, "h w"], pixels: Int64[np.ndarray, "c"], *, stride: int
) -> Int64[np.ndarray, "n"]:
    """Flat positions of every `stride`-th pixel of each class, class by class.

    Row-major within a class, from its first pixel: ceil(pixels[c] / stride) of them.

    Args:
        labels: predicted classes of one image.
        pixels: how many pixels each class has.
        stride: 1 takes all.
    """
    order = np.argsort(labels, axis=None, kind="stable")  # radix sort, linear time
    ends = np.cumsum(pixels)
    starts = ends - pixels
    return np.concatenate(
        [order[a:b:stride] for a, b in zip(starts, ends, strict=True)]
    )


def assign_hard(
    scores: Float[Array, "*b h w c"], thresholds: Float32[Array, "c"]
) -> UInt8[Array, "*b h w"]:
    """The class with the highest score / threshold, `IGNORE` where that is below 1.

    The first class on ties; a score equal to its threshold is kept (CBST Eq. 9).

    Args:
        scores: float32, of any scale.
        thresholds: above 0.
    """
    labels = jnp.argmax(scores / _as_last(thresholds, scores), axis=-1)
    # score / threshold >= 1, on devices too whose division is not exact
    keep = (scores >= _as_last(thresholds, scores)).any(axis=-1)
    return jnp.where(keep, labels.astype(jnp.uint8), jnp.uint8(IGNORE))


def assign_lrent(
    probs: Float[Array, "*b h w c"], thresholds: Float32[Array, "c"], *, alpha: float
) -> tuple[Float[Array, "*b h w c"], UInt8[Array, "*b h w"]]:
    """Soft labels of CRST's LRENT, and hard ones that say where they hold.

    With z = (p / k)^(1 / alpha) and Z its sum, y = z / Z solves
    min_y -sum y log(p / k) + alpha sum y log y; it beats y = 0 where Z > 1.

    Args:
        probs: p, float32; values below 0 count as 0.
        thresholds: k, above 0.
        alpha: weight of the entropy; towards 0 the labels become hard.

    Returns:
        y of every pixel, and its best class where Z > 1, `IGNORE` elsewhere.
    """
    p = jnp.maximum(probs, 0)
    k = _as_last(thresholds, probs)
    log_z = (jnp.log(p) - jnp.log(k)) / alpha
    log_total = jax.nn.logsumexp(log_z, axis=-1, keepdims=True)
    # A pixel without any probability has no y: -inf - -inf.
    y = jnp.where(jnp.isfinite(log_total), jnp.exp(log_z - log_total), 0)
    labels = jnp.argmax(probs / k, axis=-1).astype(jnp.uint8)
    keep = log_total[..., 0] > 0
    return y, jnp.where(keep, labels, jnp.uint8(IGNORE))


def _as_last(thresholds: Array, like: Array) -> Array:
    """`[C]` with the leading axes of `like`, of length 1."""
    return thresholds.reshape((1,) * (like.ndim - 1) + (-1,))


def _own(state: State) -> dict[str, np.ndarray]:
    """The accumulator's part of the state."""
    shared = ("passes", "samples", "pixels", "thresholds")
    return {name: value for name, value in state.items() if name not in shared}
