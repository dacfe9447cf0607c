"""Consistency: the student is to say of a changed image what a teacher says of it."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from sfda_jax.ops.collectives import psum


def pixel_divergence(
    logits: Float[Array, "b h w c"], teacher_logits: Float[Array, "b h w c"]
) -> Float[Array, "b h w"]:
    """`KL(teacher || student)` of the classes of every pixel, float32, in nats."""
    student = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    teacher = jax.nn.log_softmax(teacher_logits.astype(jnp.float32), axis=-1)
    return (jnp.exp(teacher) * (teacher - student)).sum(axis=-1)


def mean_divergence(
    logits: Float[Array, "b h w c"],
    teacher_logits: Float[Array, "b h w c"],
    counted: Bool[Array, "b h w"],
    *,
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """This shard's share of the divergence's mean over counted pixels *and* classes.

    BiSMAP divides by the classes too: C times less than a mean over pixels. It counts
    the pixels that the student saw, and leaves out those that were occluded (sections
    5.5 and 11.28 of its specification).

    Args:
        logits: the student's `[B,H,W,C]`.
        teacher_logits: the teacher's `[B,H,W,C]`, without a gradient.
        counted: pixels of the mean `[B,H,W]`.
        axis_name: device axis under `pmap`.

    Returns:
        A scalar, 0 where no pixel counts; its sum over devices is the loss.
    """
    losses = jnp.where(counted, pixel_divergence(logits, teacher_logits), 0)
    count = psum(counted.astype(jnp.float32).sum(), axis_name)
    return losses.sum() / (logits.shape[-1] * jnp.maximum(count, 1))
