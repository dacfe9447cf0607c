"""Keeps the labels of pixels whose log-density is high enough (BiSMAP, section 5.4)."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int64, PyTree, UInt8

from sfda_jax.errors import ConfigError
from sfda_jax.pseudo_labels.confidence_ranks import Radix
from sfda_jax.pseudo_labels.selector import State, Total
from sfda_jax.pseudo_labels.threshold import check_finite, likeliest, lowest_reaching
from sfda_jax.types import IGNORE

_RANKS = Radix()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Selector:
    """A `selector.Selector` whose scores are log-densities, in nats.

    The label is the class of the highest one, the first of equals. How high they are
    depends on the network: each feature that is 0 in all of a class's pixels adds 6
    nats. A quantile does not ask for that.

    Attributes:
        absolute: the least log-density that is kept: one for all classes, or one each.
        quantile: share of each predicted class's pixels that is rejected, instead of
            `absolute`; measured in two passes over the images.
        stride: every so many-th row and column counts for the quantile.
    """

    absolute: tuple[float, ...] = (100.0,)
    quantile: float | None = None
    stride: int = 4

    sequential: ClassVar[bool] = False

    def __post_init__(self):
        if self.quantile is not None and not 0 <= self.quantile < 1:
            raise ConfigError(
                f"selector.quantile is {self.quantile}.",
                hint="Give a share from 0 to below 1, or None for `absolute`.",
            )
        if self.stride < 1:
            raise ConfigError(f"selector.stride is {self.stride}; it is at least 1.")

    @property
    def num_measures(self) -> int:
        """Passes before the labelling one."""
        return 0 if self.quantile is None else _RANKS.passes

    def init(self, num_classes: int) -> State:
        """The thresholds given; nothing measured.

        Raises:
            ConfigError: as many thresholds as fit no class space of this size.
        """
        if len(self.absolute) not in (1, num_classes):
            raise ConfigError(
                f"selector.absolute holds {len(self.absolute)} thresholds for "
                f"{num_classes} classes.",
                hint="Give one for all, or one for each class in order.",
            )
        given = np.resize(np.asarray(self.absolute, np.float64), num_classes)
        state = {"thresholds": lowest_reaching(given)}
        if self.quantile is not None:
            state["pixels"] = np.zeros(num_classes, np.int64)
            state |= _RANKS.init(num_classes)
        return state

    def measure(self, probs: Float[Array, "b h w c"]) -> Mapping[str, Array]:
        """Device: the best class and its log-density, where pixels count."""
        labels, scores = likeliest(probs[:, :: self.stride, :: self.stride])
        return {"labels": labels, "scores": scores}

    def update(self, state: State, measured: PyTree, *, scratch: pathlib.Path) -> State:
        """Host: counts one batch.

        Raises:
            TrainingError: a score is not finite.
        """
        labels, scores = measured["labels"].reshape(-1), measured["scores"].reshape(-1)
        check_finite(scores)
        pixels = state["pixels"]
        if "lower" not in state:  # the second pass sees the same pixels again
            pixels = pixels + np.bincount(labels, minlength=len(pixels))
        ranks = _RANKS.add(_ranks_of(state), labels, scores, scratch=scratch)
        return {"thresholds": state["thresholds"], "pixels": pixels, **ranks}

    def settle(self, state: State, *, scratch: pathlib.Path, total: Total) -> State:
        """Host: ends a pass; after the second one the thresholds are known.

        A class of which no pixel was counted keeps none.
        """
        pixels = state["pixels"]
        if "lower" not in state:
            pixels = total(pixels)
        ranks = _RANKS.settle(
            _ranks_of(state),
            ranks=self._kept(pixels),
            zeros=np.zeros_like(pixels),
            scratch=scratch,
            total=total,
        )
        thresholds = state["thresholds"]
        if "found" in ranks:
            most = np.finfo(np.float32).max
            thresholds = np.where(pixels > 0, ranks.pop("found"), most)
        return {"thresholds": thresholds, "pixels": pixels, **ranks}

    def thresholds(self, state: State) -> Float32[np.ndarray, "c"]:
        """Those given, or those found."""
        return state["thresholds"]

    def propose(
        self, probs: Float[Array, "b h w c"], thresholds: Float32[Array, "c"]
    ) -> Mapping[str, Array]:
        """Device: `labels` uint8[b,h,w], 255 below the class's threshold."""
        labels, scores = likeliest(probs)
        kept = scores >= thresholds[labels.astype(jnp.int32)]
        return {"labels": jnp.where(kept, labels, jnp.uint8(IGNORE))}

    def select(
        self, state: State, proposed: Mapping[str, np.ndarray]
    ) -> tuple[State, UInt8[np.ndarray, "b h w"]]:
        """Host: what was proposed."""
        return state, proposed["labels"]

    def summary(self, state: State) -> dict[str, Any]:
        """`thresholds` [C]; with a quantile also `pixels` [C], those counted."""
        names = ("thresholds", "pixels") if "pixels" in state else ("thresholds",)
        return {name: state[name].tolist() for name in names}

    def _kept(self, pixels: Int64[np.ndarray, "c"]) -> Int64[np.ndarray, "c"]:
        """How many of a class's pixels the threshold is to reach."""
        return pixels - np.floor(pixels * self.quantile).astype(np.int64)


def _ranks_of(state: State) -> dict[str, np.ndarray]:
    """The part of the state that finds ranks."""
    own = ("thresholds", "pixels")
    return {name: value for name, value in state.items() if name not in own}
