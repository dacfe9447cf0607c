"""Distillation: the student is to predict what a trained network predicts."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sfda_jax.losses.consistency import pixel_divergence
from sfda_jax.ops.collectives import psum

Form = Literal["prob_as_log", "kl"]


def distillation_loss(
    logits: Float[Array, "b h w c"],
    teacher_logits: Float[Array, "b h w c"],
    *,
    form: Form = "prob_as_log",
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """This shard's share of the distance of two predictions, over all pixels.

    Args:
        logits: the student's `[B,H,W,C]`; s is their softmax.
        teacher_logits: the teacher's `[B,H,W,C]`, without a gradient; t.
        form: `prob_as_log` as released with BiSMAP, which takes probabilities for
            their logarithms: the mean of `t (log t - s)` over pixels and classes, never
            above 0, and less where the student is sure of what the teacher says. `kl`:
            the mean over pixels of `sum_c t (log t - log s)`.
        axis_name: device axis under `pmap`.

    Returns:
        A scalar; its sum over devices is the loss.
    """
    pixels = psum(jnp.float32(logits[..., 0].size), axis_name)
    if form == "kl":
        return pixel_divergence(logits, teacher_logits).sum() / pixels
    student = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
    teacher = jax.nn.log_softmax(teacher_logits.astype(jnp.float32), axis=-1)
    losses = jnp.exp(teacher) * (teacher - student)
    return losses.sum() / (logits.shape[-1] * pixels)
