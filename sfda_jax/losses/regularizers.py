"""Confidence regularisers of IAST on the two regions a pseudo-label map makes.

Mei et al., "Instance Adaptive Self-Training for Unsupervised Domain Adaptation", ECCV
2020, section 3.4; section 4 of the specification. Kept pixels have a label, ignored
ones have none; means are over the region of the global batch.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from sfda_jax.ops.collectives import psum
from sfda_jax.types import IGNORE

RegionNorm = Literal["pixels_times_classes", "pixels"]


class RegionSizes(NamedTuple):
    """Pixels of the global batch with and without a label."""

    kept: Int[Array, ""]
    ignored: Int[Array, ""]


def region_sizes(
    labels: Int[Array, "b h w"], axis_name: str | None = None
) -> RegionSizes:
    """How large the regions are, over all devices: which means are empty."""
    kept = (labels != IGNORE).sum(dtype=jnp.int32)
    ignored = jnp.int32(labels.size) - kept
    return RegionSizes(*psum((kept, ignored), axis_name))


def region_entropy(
    logits: Float[Array, "b h w c"],
    labels: Int[Array, "b h w"],
    *,
    region_norm: RegionNorm = "pixels_times_classes",
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """This shard's share of the ignored pixels' mean entropy `-sum_c p_c log p_c`.

    Args:
        logits: unnormalised class scores `[B,H,W,C]`.
        labels: train ids `[B,H,W]`, `IGNORE` where there is none.
        region_norm: `pixels_times_classes`, as published, divides by the classes once
            more; `pixels` is the mean over pixels.
        axis_name: device axis under `pmap`.

    Returns:
        A scalar, 0 with a gradient of 0 where no pixel is ignored; its sum over
        devices is the loss.
    """
    log_probs = _log_softmax(logits)
    entropy = -(jnp.exp(log_probs) * log_probs).sum(axis=-1)
    count = region_sizes(labels, axis_name).ignored
    share = _region_mean(entropy, labels == IGNORE, count)
    return share / _classes(logits, region_norm)


def region_kld(
    logits: Float[Array, "b h w c"],
    labels: Int[Array, "b h w"],
    *,
    region_norm: RegionNorm = "pixels_times_classes",
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """This shard's share of the kept pixels' mean `-sum_c log(p_c) / C`.

    That is the divergence KL(uniform || p) without its constant `-log C`. Arguments
    and result are those of `region_entropy`, for the other region.
    """
    divergence = -_log_softmax(logits).mean(axis=-1)
    count = region_sizes(labels, axis_name).kept
    share = _region_mean(divergence, labels != IGNORE, count)
    return share / _classes(logits, region_norm)


def nan_where(
    empty: Bool[Array, ""], loss: Float[Array, ""], logits: Float[Array, "b h w c"]
) -> Float[Array, ""]:
    """The loss, but NaN in value and in every gradient where a region is empty.

    What published code does in full precision: both regularisers divide by a count of
    0. (Its cross-entropy is NaN then too, but with a gradient of 0.)
    """
    factor = jnp.where(empty, jnp.nan, 0).astype(loss.dtype)
    return loss + factor * logits.astype(loss.dtype).sum()


def _log_softmax(logits: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    dtype = np.promote_types(logits.dtype, np.float32)
    return jax.nn.log_softmax(logits.astype(dtype), axis=-1)


def _region_mean(
    values: Float[Array, "b h w"], region: Bool[Array, "b h w"], count: Int[Array, ""]
) -> Float[Array, ""]:
    return jnp.where(region, values, 0).sum() / jnp.maximum(count, 1).astype(
        values.dtype
    )


def _classes(logits: Float[Array, "b h w c"], region_norm: RegionNorm) -> int:
    return logits.shape[-1] if region_norm == "pixels_times_classes" else 1
