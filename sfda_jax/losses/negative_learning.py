"""Negative learning: what the teacher rules out, the student should not say."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from sfda_jax.ops.collectives import psum


def negative_classes(probs: Float[Array, "b h w c"]) -> Bool[Array, "b h w c"]:
    """Classes less likely than chance: `probs <= 1/C`, per pixel."""
    return probs <= jnp.float32(1 / probs.shape[-1])


def negative_learning(
    logits: Float[Array, "b h w c"],
    selected: Bool[Array, "b h w c"],
    *,
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """This shard's share of the mean of `softplus(logit)` over the selected entries.

    Binary cross-entropy of `sigmoid(logit)` against 0, on raw logits (not in the
    DT-ST paper; released with its code).

    Args:
        logits: the student's, `[B,H,W,C]`.
        selected: the teacher's `negative_classes`, `[B,H,W,C]`.
        axis_name: device axis under `pmap`.
    """
    losses = jnp.where(selected, jax.nn.softplus(logits.astype(jnp.float32)), 0)
    count = psum(selected.astype(jnp.float32).sum(), axis_name)
    return losses.sum() / jnp.maximum(count, 1)
