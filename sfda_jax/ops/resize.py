"""Resizing of feature maps and label maps, equal to the published networks' own.

`jax.image.resize` antialiases when it shrinks and knows no `align_corners`; both
matter for parity, so nothing else in the package resizes on the device.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped


class Neighbours(NamedTuple):
    """Two input positions of each output position, and the share of the second."""

    low: Int[np.ndarray, "n"]
    high: Int[np.ndarray, "n"]
    share: Float[np.ndarray, "n"]


def neighbours(
    n_in: int,
    n_out: int,
    align_corners: bool,
    dtype: type[np.floating] = np.float32,
) -> Neighbours:
    """What a bilinear resize along one axis interpolates between.

    Positions are of `dtype` with one rounding, as in PyTorch's kernels.
    """
    out = np.arange(n_out)
    if align_corners:
        position = out.astype(dtype) * dtype((n_in - 1) / max(n_out - 1, 1))
    else:
        scale = np.float64(dtype(n_in / n_out))
        position = np.maximum((scale * (out + 0.5) - 0.5).astype(dtype), dtype(0))
    low = np.minimum(position.astype(np.int32), n_in - 1)
    high = np.minimum(low + 1, n_in - 1)
    return Neighbours(low, high, position - low.astype(dtype))


def _interpolation_matrix(
    n_in: int, n_out: int, align_corners: bool, dtype: type[np.floating] = np.float32
) -> np.ndarray:
    """Rows of two neighbouring weights, `[n_out, n_in]`."""
    low, high, share = neighbours(n_in, n_out, align_corners, dtype)
    out = np.arange(n_out)
    matrix = np.zeros((n_out, n_in), dtype)
    np.add.at(matrix, (out, low), 1 - share)
    np.add.at(matrix, (out, high), share)
    return matrix


def resize_bilinear(
    x: Float[Array, "b h w c"], size: tuple[int, int], *, align_corners: bool
) -> Float[Array, "b H W c"]:
    """Bilinear resize without antialiasing, in the dtype of `x`.

    Args:
        x: features, logits or images, `[b, h, w, c]`.
        size: height and width wanted.
        align_corners: True pins corner pixels to corner pixels (the DeepLab
            networks); False places pixels by their centres (SegFormer).

    Example:
        >>> x = jnp.asarray([0.0, 1.0]).reshape(1, 1, 2, 1)
        >>> [float(v) for v in resize_bilinear(x, (1, 3), align_corners=True).ravel()]
        [0.0, 0.5, 1.0]
    """
    height, width = x.shape[1:3]
    if (height, width) == tuple(size):
        return x
    dtype = np.float64 if x.dtype == np.float64 else np.float32
    rows = _interpolation_matrix(height, size[0], align_corners, dtype)
    columns = _interpolation_matrix(width, size[1], align_corners, dtype)
    resized = jnp.einsum(
        "Hh,bhwc,Ww->bHWc",
        rows,
        x.astype(dtype),
        columns,
        precision=jax.lax.Precision.HIGHEST,
    )
    return resized.astype(x.dtype)


def _nearest_index(n_in: int, n_out: int, half_pixel: bool) -> np.ndarray:
    out = np.arange(n_out)
    if half_pixel:
        index = np.floor((out + 0.5) * (n_in / n_out))
    else:
        # float32 on purpose: float64 picks another source pixel for some ratios.
        scale = np.float32(n_in) / np.float32(n_out)
        index = np.floor(out.astype(np.float32) * scale)
    return np.minimum(index.astype(np.int32), n_in - 1)


def resize_nearest(
    x: Shaped[Array, "b h w *c"], size: tuple[int, int], *, half_pixel: bool = False
) -> Shaped[Array, "b H W *c"]:
    """Nearest-neighbour resize of any dtype.

    Args:
        x: label maps `[b, h, w]` or images `[b, h, w, c]`.
        size: height and width wanted.
        half_pixel: take source pixel `floor((i + 0.5) * in / out)` as Pillow does, not
            `floor(i * in / out)` as PyTorch does.
    """
    rows = _nearest_index(x.shape[1], size[0], half_pixel)
    columns = _nearest_index(x.shape[2], size[1], half_pixel)
    return jnp.take(jnp.take(x, rows, axis=1), columns, axis=2)
