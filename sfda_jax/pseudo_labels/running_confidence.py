"""A running class prior, and the per-image thresholds it discounts (from SAC)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sfda_jax.ops.collectives import pmean
from sfda_jax.types import IGNORE


def init_running_confidence(
    num_classes: int, beta: float = 0.001
) -> Float[Array, " {num_classes}"]:
    """The prior before the first batch: `beta` everywhere, meaning "not seen yet"."""
    return jnp.full((num_classes,), beta, jnp.float32)


def update_running_confidence(
    running: Float[Array, " c"],
    probs: Float[Array, "b h w c"],
    *,
    beta: float = 0.001,
    momentum: float = 0.9,
    tolerance: float = 1e-8,
    axis_name: str | None = None,
) -> Float[Array, " c"]:
    """The prior after one batch, moved towards the mean probability of each class.

    A class seen for the first time starts at its batch mean. "First" is float
    equality with `beta`, as published (Stable-ST lineage, SAC Eq. 4).

    Args:
        running: the prior `[C]`.
        probs: the teacher's softmax on this shard `[B,H,W,C]`.
        beta: initial value.
        momentum: weight of the past.
        tolerance: batch means up to it count as absent.
        axis_name: device axis under `pmap`; the mean is global.
    """
    mean = pmean(probs.mean(axis=(0, 1, 2)), axis_name)
    first = (mean > tolerance) & (running == jnp.float32(beta))
    return momentum * jnp.where(first, mean, running) + (1 - momentum) * mean


def confident_labels(
    probs: Float[Array, "b h w c"],
    running: Float[Array, " c"],
    *,
    upper: float = 0.8,
    lower: float = 0.2,
    beta: float = 0.001,
    discount: bool = True,
) -> Int[Array, "b h w"]:
    """Pseudo-labels `[B,H,W]`: the most likely class where it passes its threshold.

    The threshold of class c in image b is `upper` times the highest confidence of
    its pixels there, times `1 - exp(-running[c] / beta)`, and at least `lower`
    (SAC Eq. 5). Pixels not strictly above it get `IGNORE`.

    Args:
        probs: the teacher's softmax `[B,H,W,C]`.
        running: class prior `[C]`.
        upper: share of the peak confidence.
        lower: floor of the threshold.
        beta: scale of the discount; near 1 for any class above about 5 beta.
        discount: lower the threshold of rare classes.
    """
    confidence = probs.max(axis=-1)
    labels = probs.argmax(axis=-1)
    predicted = jax.nn.one_hot(labels, probs.shape[-1], dtype=bool)
    peak = jnp.where(predicted, confidence[..., None], 0).max(axis=(1, 2))
    threshold = peak * upper
    if discount:
        threshold = threshold * (1 - jnp.exp(-running / beta))[None]
    threshold = jnp.maximum(threshold, lower)
    own = jnp.where(predicted, threshold[:, None, None], 0).sum(axis=-1)
    return jnp.where(confidence > own, labels, IGNORE)
