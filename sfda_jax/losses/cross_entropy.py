"""Pixel cross-entropy; the mean's denominator is always said."""

import math
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sfda_jax.ops.collectives import psum
from sfda_jax.types import IGNORE

_LEAST_PROB, _LEAST_TARGET = 1e-7, 1e-4  # of the reverse cross-entropy


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


def mean_reverse_cross_entropy(
    logits: Float[Array, "b h w c"],
    labels: Int[Array, "b h w"],
    *,
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """This shard's share of the mean `-sum_c p_c log q_c` over labelled pixels.

    p is the softmax, not below 1e-7; q is 1 at the label and 1e-4 elsewhere: about
    9.21 times what the prediction leaves to other classes (Wang et al., "Symmetric
    Cross Entropy for Robust Learning with Noisy Labels", ICCV 2019, Eq. 7).

    Args:
        logits: unnormalised class scores `[B,H,W,C]`.
        labels: train ids `[B,H,W]`, `IGNORE` where there is none.
        axis_name: device axis under `pmap`.

    Returns:
        A scalar, 0 without any label; its sum over devices is the loss.
    """
    probs = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
    # A clipped probability has no gradient; at the bound itself it has all of it.
    probs = jnp.where(probs >= _LEAST_PROB, probs, _LEAST_PROB)
    classes = jnp.arange(logits.shape[-1], dtype=labels.dtype).reshape(1, 1, 1, -1)
    others = jnp.where(classes == labels[..., None], 0, probs).sum(axis=-1)
    losses = -math.log(_LEAST_TARGET) * others
    kept = labels != IGNORE
    count = psum(kept.astype(jnp.float32).sum(), axis_name)
    return jnp.where(kept, losses, 0).sum() / jnp.maximum(count, 1)


def symmetric_cross_entropy(
    logits: Float[Array, "b h w c"],
    labels: Int[Array, "b h w"],
    *,
    weights: tuple[float, float] = (0.1, 1.0),
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """This shard's share of `a * cross-entropy + b * reverse cross-entropy`.

    Both are means over labelled pixels; the reverse term is bounded, so that a wrong
    label pulls less (BiSMAP's loss on pseudo-labels, section 5.5 of its
    specification).

    Args:
        logits: unnormalised class scores `[B,H,W,C]`.
        labels: train ids `[B,H,W]`, `IGNORE` where there is none.
        weights: (a, b).
        axis_name: device axis under `pmap`.
    """
    forward = mean_cross_entropy(
        logits, labels, denominator="kept", axis_name=axis_name
    )
    reverse = mean_reverse_cross_entropy(logits, labels, axis_name=axis_name)
    return weights[0] * forward + weights[1] * reverse
