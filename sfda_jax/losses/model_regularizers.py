"""Confidence-regularised self-training (CRST): cross-entropy and model regularisers.

The regularisers smooth the network's output at pixels that carry a label, so that
wrong pseudo-labels do not make it overconfident (cbst_crst.md, sections 6.1 to 6.3).
"""

from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from sfda_jax.losses.regularizers import nan_where
from sfda_jax.ops.collectives import psum
from sfda_jax.types import IGNORE

Regularizer = Literal["none", "kld", "l2", "ent"]
Semantics = Literal["squared", "linear"]


def pixel_regularizer(
    log_probs: Float[Array, "*b c"], name: Literal["kld", "l2", "ent"]
) -> Float[Array, "*b"]:
    """What a confident prediction costs, per pixel.

    `kld` (MRKLD) is `-mean_c log p_c`, the KL divergence of the uniform distribution
    against p up to a constant; `l2` (MRL2) `sum_c p_c^2`; `ent` (MRENT)
    `sum_c p_c log p_c`. Only the first is in the published code.

    Example:
        >>> log_probs = jnp.log(jnp.asarray([0.5, 0.5]))
        >>> round(float(pixel_regularizer(log_probs, "l2")), 4)
        0.5
    """
    if name == "kld":
        return -log_probs.mean(-1)
    probs = jnp.exp(log_probs)
    if name == "l2":
        return (probs * probs).sum(-1)
    return (probs * log_probs).sum(-1)


def confidence_regularised_loss(
    logits: Float[Array, "b h w c"],
    labels: Int[Array, "b h w"] | Float[Array, "b h w c"],
    *,
    regularizer: Regularizer = "none",
    weight: float = 0.0,
    image_weights: Float[Array, " b"] | None = None,
    semantics: Semantics = "squared",
    strict_nan: bool = False,
    axis_name: str | None = None,
) -> tuple[Float[Array, ""], Mapping[str, Float[Array, ""]]]:
    """This shard's share of the global loss over labelled pixels, and of its parts.

    With l = log softmax(logits), N_v labelled pixels of the global batch, N_r those of
    images with b_n != 0, and r of `pixel_regularizer`:

    `-sum_v l_label / N_v  +  weight * sum_n b_n sum_(v in n) r / N_r`.

    Args:
        logits: unnormalised class scores `[B,H,W,C]`; the loss has their precision.
        labels: train ids `[B,H,W]`, `IGNORE` where there is none; or class weights
            `[B,H,W,C]` (LRENT), all zero where there is none: the first term is then
            `-sum_v sum_c y_c l_c / N_v`.
        regularizer: which r; `none` leaves the second term out, as does weight 0.
        weight: the setting that the published code calls `mr_weight_kld`.
        image_weights: b_n `[B]`, published: `weight` itself for target images and 0
            for source images. None is `weight` for all.
        semantics: `squared` as published: the weight stands before the sum and is
            contained in b_n, so that 0.1 acts as 0.01; `linear` leaves it out before
            the sum.
        strict_nan: a batch without any label gives NaN, as published, not 0.
        axis_name: device axis under `pmap`.

    Returns:
        A scalar, and its terms `cross_entropy` and `regularizer`; their sums over
        devices are those of the global batch.
    """
    log_probs = jax.nn.log_softmax(logits, axis=-1)
    fit, valid = _fit(log_probs, labels)
    count = psum(valid.sum(), axis_name)
    cross_entropy = fit.sum() / jnp.maximum(count, 1)
    if strict_nan:
        cross_entropy = nan_where(count == 0, cross_entropy, logits)
    penalty = jnp.zeros_like(cross_entropy)
    if regularizer != "none" and weight:
        if image_weights is None:
            image_weights = jnp.full(len(logits), weight, logits.dtype)
        weights = image_weights.astype(logits.dtype)[:, None, None] * valid
        regularised = psum((weights != 0).sum(dtype=logits.dtype), axis_name)
        factor = weight if semantics == "squared" else 1.0
        total = (weights * pixel_regularizer(log_probs, regularizer)).sum()
        penalty = factor * total / jnp.maximum(regularised, 1)
    parts = {"cross_entropy": cross_entropy, "regularizer": penalty}
    return cross_entropy + penalty, parts


def _fit(
    log_probs: Float[Array, "b h w c"], labels: Shaped[Array, "b h w *c"]
) -> tuple[Float[Array, "b h w"], Float[Array, "b h w"]]:
    """`-sum_c y_c log p_c` per pixel, 0 without a label; and 1 where there is one."""
    if labels.ndim == log_probs.ndim:
        soft = labels.astype(log_probs.dtype)
        valid = (soft.sum(-1) != 0).astype(log_probs.dtype)
        return -(soft * log_probs).sum(-1), valid
    kept = labels != IGNORE
    index = jnp.where(kept, labels, 0)
    picked = jnp.take_along_axis(log_probs, index[..., None], axis=-1)[..., 0]
    return jnp.where(kept, -picked, 0), kept.astype(log_probs.dtype)
