"""Labels by one confidence threshold per class."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, UInt8

from sfda_jax.errors import TrainingError
from sfda_jax.types import IGNORE


def likeliest(
    probs: Float[Array, "b h w c"],
) -> tuple[UInt8[Array, "b h w"], Float32[Array, "b h w"]]:
    """The class of the highest score, the first of equals, and that score."""
    labels = probs.argmax(axis=-1).astype(jnp.uint8)
    return labels, probs.max(axis=-1).astype(jnp.float32)


def lowest_reaching(thresholds: Float[np.ndarray, "c"]) -> Float32[np.ndarray, "c"]:
    """The lowest float32 that is not below a threshold.

    A float32 confidence reaches the one exactly where it reaches the other.
    """
    nearest = thresholds.astype(np.float32)
    above = np.nextafter(nearest, np.float32(np.inf))
    return np.where(nearest < thresholds, above, nearest)


def reaching(
    labels: UInt8[np.ndarray, "*n"],
    confidence: Float32[np.ndarray, "*n"],
    thresholds: Float32[np.ndarray, "c"],
) -> UInt8[np.ndarray, "*n"]:
    """Host: the labels whose confidence reaches their class's threshold, else 255."""
    kept = confidence >= thresholds[labels]
    return np.where(kept, labels, np.uint8(IGNORE))


def check_finite(scores: Float[np.ndarray, "*n"]) -> None:
    """Host: refuses scores that are not numbers.

    Raises:
        TrainingError: one is not finite.
    """
    if not np.isfinite(scores).all():
        raise TrainingError(
            "The labelling network gives scores that are not finite.",
            hint="Label with an earlier checkpoint (labels_from), or lower the "
            "learning rate of the stage that trained it.",
        )
