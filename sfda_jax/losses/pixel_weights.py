"""SND's pixel weights: does learning a pseudo-label help on the stable neighbours?

Zhao et al., "Stable Neighbor Denoising for Source-free Domain Adaptive Segmentation",
CVPR 2024. A bilevel problem with one inner step: each pixel of the pseudo-labels has a
weight in the loss that moves the teacher's head, and the moved head is judged on a
batch whose labels are stable.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from sfda_jax.losses.cross_entropy import mean_cross_entropy
from sfda_jax.ops.collectives import psum
from sfda_jax.ops.resize import resize_bilinear

Head = Callable[[PyTree, Array], Array]
"""`head(params, features)`: logits `[B,h,w,C]` of features `[B,h,w,D]`."""


class LabelledFeatures(NamedTuple):
    """What a head is trained or judged on.

    Attributes:
        features: the head's input, at the network's stride.
        labels: train ids, `IGNORE` where there is none; logits are enlarged to them.
    """

    features: Float[Array, "b h w d"]
    labels: Int[Array, "b H W"]


class WeightGradient(NamedTuple):
    """How the loss on the stable batch answers to each pixel's weight, at weight one.

    Attributes:
        gradient: with respect to the weights; negative where a pixel helps.
        inner_loss: of the pseudo-labels before the step, this shard's share.
        stable_loss: of the stable batch after the step, this shard's share.
    """

    gradient: Float[Array, "b H W"]
    inner_loss: Float[Array, ""]
    stable_loss: Float[Array, ""]


def weight_gradient(
    head: Head,
    params: PyTree,
    pseudo: LabelledFeatures,
    stable: LabelledFeatures,
    *,
    align_corners: bool,
    inner_rate: float = 0.1,
    axis_name: str | None = None,
) -> WeightGradient:
    """Gradient of the stable loss with respect to the pseudo-labels' pixel weights.

    With Q the head's parameters and w = 1: Q'(w) = Q - rate ∇_Q mean(w CE(Q)), a plain
    SGD step, and the gradient is that of mean(CE(Q'(w))) on the stable batch. Both
    means are over every pixel of the global batch, ignored ones too: the gradient
    carries both factors 1/(B*H*W), which decide how it compares with Adam's epsilon.

    Args:
        head: the classifier as a pure function.
        params: the teacher's head Q, and nothing but what the head uses.
        pseudo: the teacher's features of the student's crop, with the merged labels.
        stable: the student's features of the stable batch, with its labels.
        align_corners: of the enlargement of logits.
        inner_rate: of the SGD step.
        axis_name: device axis under `pmap`. The step and the stable loss are the global
            batch's, the gradient is this shard's part of the global one.
    """

    def mean_loss(params, batch, weights=None):
        logits = head(params, batch.features)
        return mean_cross_entropy(
            resize_bilinear(
                logits, batch.labels.shape[1:], align_corners=align_corners
            ),
            batch.labels,
            denominator="all",
            weights=weights,
            axis_name=axis_name,
        )

    def after_step(weights):
        before, gradient = jax.value_and_grad(mean_loss)(params, pseudo, weights)
        # Every device takes the same step; transposed, this sum brings to each what
        # its pixels do to the stable losses of all.
        gradient = psum(gradient, axis_name)
        stepped = jax.tree.map(lambda q, g: q - inner_rate * g, params, gradient)
        return mean_loss(stepped, stable), before

    ones = jnp.ones(pseudo.labels.shape, jnp.float32)
    differentiate = jax.value_and_grad(after_step, has_aux=True)
    (after, before), gradient = differentiate(ones)
    return WeightGradient(gradient, inner_loss=before, stable_loss=after)


def adam_weights(
    gradient: Float[Array, "b h w"],
    pasted: Bool[Array, "b h w"],
    *,
    rate: float = 0.9,
    epsilon: float = 1e-8,
) -> Float[Array, "b h w"]:
    """Weights after one step of Adam from 1, both moments zero: in [1-rate, 1+rate].

    The bias corrections cancel: w = 1 - rate * g / (|g| + epsilon). At real sizes |g|
    is around epsilon, so this is not merely a sign.

    Args:
        gradient: of the stable loss, from `weight_gradient`.
        pasted: pixels of pasted objects, whose weight stays 1.
        rate: of Adam.
        epsilon: of Adam.
    """
    weights = 1 - rate * gradient / (jnp.abs(gradient) + epsilon)
    return jnp.where(pasted, 1, weights)


def loss_weights(weights: Float[Array, "b h w"]) -> Float[Array, "b h w"]:
    """Factors of the student's pixel losses: (1 + exp(w - 1)) / 2, and 1 at w = 1."""
    return 0.5 + 0.5 * jnp.exp(weights - 1)
