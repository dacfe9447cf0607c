"""Least-squares terms of the game between a network and a domain discriminator."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from sfda_jax.ops.collectives import psum


def least_squares(
    scores: Float[Array, "*patches"], wanted: float, *, axis_name: str | None = None
) -> Float[Array, ""]:
    """This shard's share of the mean of `(score - wanted)^2` over all patches.

    Args:
        scores: the discriminator's, of any shape; shards are equally large.
        wanted: 0 stands for the source, 1 for the target.
        axis_name: device axis under `pmap`; the sum over devices is the mean.
    """
    count = psum(jnp.asarray(scores.size, scores.dtype), axis_name)
    return jnp.square(scores - wanted).sum() / count


def adversarial_loss(
    target_scores: Float[Array, "*patches"], *, axis_name: str | None = None
) -> Float[Array, ""]:
    """What the network minimises: target images are to score as the source does.

    Mean of `D(p_t)^2` (IAST, section 3.2, with the labels of the released code: 0 for
    the source).

    Example:
        >>> float(adversarial_loss(jnp.full((1, 2, 2, 1), 0.5)))
        0.25
    """
    return least_squares(target_scores, 0.0, axis_name=axis_name)


def discriminator_loss(
    source_scores: Float[Array, "*s"],
    target_scores: Float[Array, "*t"],
    *,
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """What the discriminator minimises: 0 on the source, 1 on the target.

    `(mean D(p_s)^2 + mean (D(p_t) - 1)^2) / 2` (IAST, section 3.2).

    Example:
        >>> float(discriminator_loss(jnp.zeros((1, 2, 2, 1)), jnp.zeros((1, 2, 2, 1))))
        0.5
    """
    source = least_squares(source_scores, 0.0, axis_name=axis_name)
    return 0.5 * (source + least_squares(target_scores, 1.0, axis_name=axis_name))
