"""Warps from the full view (what the teacher sees) to the student's crop."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num


def full_to_weak(
    x: Num[Array, "b H W c"],
    *,
    rescale_size: Int[Array, "b 2"],
    crop_origin: Int[Array, "b 2"],
    flip: Bool[Array, " b"],
    crop_size: tuple[int, int],
    down_ratio: int = 1,
    nearest: bool = False,
) -> Num[Array, "b h w c"]:
    """The full view as the student's crop shows it: rescaled, cropped, mirrored.

    Every sample has its own geometry, traced: only the output size is static. The
    rescaling is bilinear with aligned corners, its positions rounded as PyTorch
    rounds them, and is evaluated inside the crop alone.

    Args:
        x: maps of the full view `[B,H,W,C]`; bilinear needs floats.
        rescale_size: (height, width) the full view was rescaled to, `[B,2]`.
        crop_origin: (top, left) of the crop in the rescaled view, `[B,2]`.
        flip: whether the crop was then mirrored, `[B]`.
        crop_size: (height, width) of the crop in pixels.
        down_ratio: stride of `x` and of the result; geometry is divided by it.
        nearest: take the nearest value, for labels.

    Returns:
        `[B,h,w,C]` with (h, w) = crop_size // down_ratio.
    """
    height, width = (size // down_ratio for size in crop_size)
    size = rescale_size // down_ratio
    origin = crop_origin // down_ratio
    rows = origin[:, :1] + jnp.arange(height)[None]
    columns = jnp.arange(width)[None]
    columns = jnp.where(flip[:, None], width - 1 - columns, columns) + origin[:, 1:]
    if nearest:
        rows = _nearest(rows, size[:, :1], x.shape[1])
        columns = _nearest(columns, size[:, 1:], x.shape[2])
        x = jnp.take_along_axis(x, rows[:, :, None, None], axis=1)
        return jnp.take_along_axis(x, columns[:, None, :, None], axis=2)
    return jnp.einsum(
        "bhH,bHWc,bwW->bhwc",
        _bilinear(rows, size[:, :1], x.shape[1]),
        x,
        _bilinear(columns, size[:, 1:], x.shape[2]),
        precision="highest",
    )


def _bilinear(
    positions: Int[Array, "b o"], n_out: Int[Array, "b 1"], n_in: int
) -> Float[Array, "b o {n_in}"]:
    """Interpolation matrices; rows are the output positions asked for."""
    step = jnp.float32(n_in - 1) / jnp.maximum(n_out - 1, 1).astype(jnp.float32)
    source = positions.astype(jnp.float32) * step
    low = jnp.minimum(source.astype(jnp.int32), n_in - 1)
    high = jnp.minimum(low + 1, n_in - 1)
    share = (source - low.astype(jnp.float32))[..., None]
    inputs = jnp.arange(n_in)[None, None]
    return jnp.where(inputs == low[..., None], 1 - share, 0) + jnp.where(
        inputs == high[..., None], share, 0
    )


def _nearest(
    positions: Int[Array, "b o"], n_out: Int[Array, "b 1"], n_in: int
) -> Int[Array, "b o"]:
    scale = jnp.float32(n_in) / n_out.astype(jnp.float32)
    source = jnp.floor(positions.astype(jnp.float32) * scale).astype(jnp.int32)
    return jnp.minimum(source, n_in - 1)
