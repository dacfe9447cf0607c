"""Pixel cross-entropy; the mean's denominator is always said."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sfda_jax.ops.collectives import psum
from sfda_jax.types import IGNORE


def pixel_cross_entropy(
    logits: Float[Array, "b h w c"], labels: Int[Array, "b h w"]
) -> Float[Array, "b h w"]:
    """`-log softmax(logits)[label]` per pixel, 0 where the label is `IGNORE`."""
    kept = labels != IGNORE
    index = jnp.where(kept, labels, 0)
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    picked = jnp.take_along_axis(log_probs, index[..., None], axis=-1)[..., 0]
    return jnp.where(kept, -picked, 0)


def mean_cross_entropy(
    logits: Float[Array, "b h w c"],
    labels: Int[Array, "b h w"],
    *,
    denominator: Literal["all", "kept"],
    weights: Float[Array, "b h w"] | None = None,
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """This shard's share of the global mean of (weighted) pixel cross-entropies.

    Args:
        logits: unnormalised class scores `[B,H,W,C]`.
        labels: train ids `[B,H,W]`, `IGNORE` where there is none.
        denominator: `all` divides by every pixel of the global batch, ignored ones
            too; `kept` by those that have a label (0 if none has).
        weights: factor per pixel `[B,H,W]`; never changes the denominator.
        axis_name: device axis under `pmap`.

    Returns:
        A scalar; its sum over devices is the loss.
    """
    losses = pixel_cross_entropy(logits, labels)
    if weights is not None:
        losses = losses * weights
    counted = jnp.ones_like(losses) if denominator == "all" else labels != IGNORE
    count = psum(counted.astype(jnp.float32).sum(), axis_name)
    return losses.sum() / jnp.maximum(count, 1)
