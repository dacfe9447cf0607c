"""The simplest selector: pixels that reach a fixed confidence keep their label."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, UInt8

from sfda_jax.errors import ConfigError
from sfda_jax.pseudo_labels.selector import State
from sfda_jax.pseudo_labels.single_pass import SinglePass
from sfda_jax.pseudo_labels.threshold import likeliest, lowest_reaching
from sfda_jax.types import IGNORE


@dataclasses.dataclass(frozen=True, kw_only=True)
class Selector(SinglePass):
    """Fixed thresholds; a confidence equal to its threshold is kept.

    Attributes:
        threshold: of every class.
        per_class: one threshold per class instead; () for none.
    """

    threshold: float = 0.9
    per_class: tuple[float, ...] = ()

    sequential: ClassVar[bool] = False

    def init(self, num_classes: int) -> State:
        """The thresholds `[C]`.

        Raises:
            ConfigError: `per_class` is for another number of classes.
        """
        if self.per_class and len(self.per_class) != num_classes:
            raise ConfigError(
                f"selector.per_class holds {len(self.per_class)} thresholds; the task "
                f"has {num_classes} classes.",
                hint="Give one per class, or () and a single selector.threshold.",
            )
        values = self.per_class or (self.threshold,) * num_classes
        return {"thresholds": np.asarray(values, np.float64)}

    def thresholds(self, state: State) -> Float32[np.ndarray, "c"]:
        """The lowest float32 confidence that each class keeps."""
        return lowest_reaching(state["thresholds"])

    def propose(
        self, probs: Float[Array, "b h w c"], thresholds: Float32[Array, "c"]
    ) -> Mapping[str, Array]:
        """Device: `labels`, 255 below the threshold."""
        labels, confidence = likeliest(probs)
        kept = confidence >= thresholds[labels.astype(jnp.int32)]
        return {"labels": jnp.where(kept, labels, jnp.uint8(IGNORE))}

    def select(
        self, state: State, proposed: Mapping[str, np.ndarray]
    ) -> tuple[State, UInt8[np.ndarray, "b h w"]]:
        """The labels as the device found them."""
        return state, proposed["labels"]

    def summary(self, state: State) -> dict[str, Any]:
        """The thresholds."""
        return {"thresholds": state["thresholds"].tolist()}
