"""Resizing as Pillow does it, on the device: antialiased filters as matrix products."""

import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Filter = Literal["bilinear", "bicubic", "lanczos"]


def _bilinear(x: np.ndarray) -> np.ndarray:
    return np.maximum(1 - np.abs(x), 0)


def _bicubic(x: np.ndarray, a: float = -0.5) -> np.ndarray:
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def _lanczos(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)


_FILTERS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], float]] = {
    "bilinear": (_bilinear, 1.0),
    "bicubic": (_bicubic, 2.0),
    "lanczos": (_lanczos, 3.0),
}


def resize_matrix(n_in: int, n_out: int, resample: Filter) -> Float[np.ndarray, "o i"]:
    """Weights of a line of `n_in` pixels in one of `n_out`, float64.

    The filter widens by the scale when the line shrinks; at the borders the weights
    that lie inside are renormalised.

    Args:
        n_in: length before.
        n_out: length after.
        resample: the filter; bicubic has a = -0.5.
    """
    if n_in == n_out:
        return np.eye(n_in)
    kernel, radius = _FILTERS[resample]
    scale = n_in / n_out
    widening = max(scale, 1.0)
    support = radius * widening
    matrix = np.zeros((n_out, n_in))
    for row in range(n_out):
        centre = (row + 0.5) * scale
        first = max(math.floor(centre - support + 0.5), 0)
        last = min(math.floor(centre + support + 0.5), n_in)
        weights = kernel((np.arange(first, last) + 0.5 - centre) / widening)
        matrix[row, first:last] = weights / weights.sum()
    return matrix


def resize_pil(
    x: Float[Array, "b h w c"], size: tuple[int, int], resample: Filter
) -> Float[Array, "b H W c"]:
    """Maps at another size, float32, as Pillow resizes images of mode `F`.

    Args:
        x: any float maps; results of bicubic and Lanczos may leave their range.
        size: height and width wanted.
        resample: the filter.
    """
    rows, columns = (
        resize_matrix(have, want, resample)
        for have, want in zip(x.shape[1:3], size, strict=True)
    )
    return apply_matrices(x, rows, columns)


def apply_matrices(
    x: Float[Array, "b h w c"],
    rows: Float[np.ndarray, "H h"],
    columns: Float[np.ndarray, "W w"],
) -> Float[Array, "b H W c"]:
    """`rows @ x @ columns.T` of every map, float32."""
    return jnp.einsum(
        "Hh,bhwc,Ww->bHWc",
        rows.astype(np.float32),
        x.astype(jnp.float32),
        columns.astype(np.float32),
        precision=jax.lax.Precision.HIGHEST,
    )
