"""How good a student is on unlabelled images, larger is better: what DTU compares."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sfda_jax.types import Key

_TINY = 1e-12


def draw_positions(key: Key, total: int, count: int) -> Int[Array, " {count}"]:
    """`count` distinct positions out of `total`, in random order."""
    return jax.random.permutation(key, total)[:count]


def soft_neighbourhood_density(
    probs: Float[Array, "n c"], positions: Int[Array, " m"]
) -> Float[Array, ""]:
    """Mean entropy of pixels' similarities to each other.

    p = L2-normalised rows of `probs[positions]`, q = softmax(20 p pᵀ) by rows, mean
    over rows of `-Σ q log(q + 1e-5)` (DT-ST Sec. 3.2, after Saito et al. 2021).

    Args:
        probs: softmax of the logits, one row per pixel of the batch `[B*h*w,C]`.
        positions: the rows compared with each other.
    """
    rows = _unit_rows(probs[positions])
    similarity = jnp.matmul(rows, rows.T, precision="highest") * 20
    return row_entropy(jax.nn.softmax(similarity, axis=1)).mean()


def row_entropy(probs: Float[Array, "n c"]) -> Float[Array, " n"]:
    """`-Σ p log(p + 1e-5)` of each row, in nats."""
    return -(probs * jnp.log(probs + 1e-5)).sum(axis=1)


def peak_certainty(probs: Float[Array, "n c"]) -> Float[Array, ""]:
    """Mean of `1 + 2 p log2 p` of each pixel's highest probability (DTU-E)."""
    peak = probs.max(axis=1)
    return (1 + 2 * peak * jnp.log2(peak)).mean()


def score(
    name: Literal["soft_nd", "ent"],
    probs: Float[Array, "n c"],
    positions: Int[Array, " m"],
) -> Float[Array, " 1"]:
    """A student's score of that name on one batch; only `soft_nd` uses positions."""
    if name == "ent":
        return peak_certainty(probs)[None]
    return soft_neighbourhood_density(probs, positions)[None]


def image_entropy(probs: Float[Array, "b h w c"]) -> Float[Array, " b"]:
    """Mean over pixels of `-Σ p log p` of each image, in nats; small is stable."""
    return _entropy_terms(probs).sum(axis=-1).mean(axis=(1, 2))


def style_vectors(
    images: Float[Array, "b h w 3"], *, keep_ratio: float = 0.125
) -> Float[Array, "b k"]:
    """Low-frequency amplitudes of each image, of unit length.

    Of the orthonormal FFT of the channels' mean, the block of the lowest frequencies;
    vertical ones are the non-negative alone, as in Stable-ST's code.

    Args:
        images: normalised RGB `[B,H,W,3]`.
        keep_ratio: share of the H rows and the W//2+1 columns kept, at least one.
    """
    amplitude = jnp.abs(jnp.fft.rfft2(images.mean(axis=-1), norm="ortho"))
    rows, columns = (max(1, int(n * keep_ratio)) for n in amplitude.shape[1:])
    return _unit_rows(amplitude[:, :rows, :columns].reshape(len(images), -1))


def stable_pool(entropies: Float[Array, " b"]) -> Int[Array, " p"]:
    """The more certain half of a batch, `max(1, B//2)` images, most certain first."""
    return jnp.argsort(entropies)[: max(1, len(entropies) // 2)]


def stable_neighbours(
    entropies: Float[Array, " b"], styles: Float[Array, "b k"]
) -> Int[Array, " b"]:
    """Each image's neighbour in style among the stable images of its batch.

    An image is its own neighbour only where it is all the pool. Ties go to the more
    certain one.

    Args:
        entropies: `image_entropy` of the global batch.
        styles: `style_vectors` of the global batch.
    """
    pool = stable_pool(entropies)
    similarity = jnp.matmul(styles, styles[pool].T, precision="highest")
    own = jnp.arange(len(styles), dtype=pool.dtype)[:, None] == pool[None]
    return pool[jnp.where(own, -1, similarity).argmax(axis=1)]


def similarity_maps(
    features: Float[Array, "b h w d"], neighbours: Int[Array, " b"]
) -> Float[Array, "b h w"]:
    """Inner products of an image and its neighbour, position by position.

    Args:
        features: of the global batch, not normalised.
        neighbours: places in that batch.
    """
    return (features * features[neighbours]).sum(axis=-1)


def neighbour_density(
    features: Float[Array, "b h w d"], neighbours: Int[Array, " b"]
) -> Float[Array, " b"]:
    """Stable-ST's NFD, one score per image: larger where similarity is peaked.

    1 - mean over positions of `-p log p`, with p the softmax over positions of the
    similarity map. The mean, not the sum: at real sizes scores lie within about 5e-4
    of 1 and often tie in float32.

    Args:
        features: of the global batch, `[B,h,w,D]`.
        neighbours: `stable_neighbours` of the batch; kept when it is scored again.
    """
    shares = jax.nn.softmax(similarity_maps(features, neighbours), axis=(1, 2))
    return 1 - _entropy_terms(shares).mean(axis=(1, 2))


def _entropy_terms(probs: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    probs = jnp.maximum(probs, _TINY)
    return -probs * jnp.log(probs)


def _unit_rows(rows: Float[Array, "n d"]) -> Float[Array, "n d"]:
    norm = jnp.sqrt((rows**2).sum(axis=1, keepdims=True))
    return rows / jnp.maximum(norm, _TINY)
