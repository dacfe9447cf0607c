"""Class maps at network stride, padded and enlarged as CBST does (section 3.1)."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sfda_jax.data.image_ops import rule
from sfda_jax.ops.pil_resize import apply_matrices, resize_matrix

_MULTIPLE = 8


def padded(images: Float[Array, "b h w c"]) -> Float[Array, "b H W c"]:
    """Normalised images with zeros right and below, to multiples of 8."""
    height, width = (-side % _MULTIPLE for side in images.shape[1:3])
    return jnp.pad(images, ((0, 0), (0, height), (0, width), (0, 0)))


def enlarged(
    maps: Float[Array, "b h w c"],
    size: tuple[int, int],
    label_size: tuple[int, int],
) -> Float[Array, "b H W c"]:
    """Class maps at the labels' size: neither clipped nor made to sum to 1.

    Bicubic by the network's stride, cut to the size of the unpadded input, then with
    the filter of `image_ops.rule` to the labels' size. Both are linear, so
    one product of matrices does them.

    Args:
        maps: at network stride, of padded images.
        size: (height, width) of the images before padding.
        label_size: wanted.
    """
    resample = rule(size, label_size)
    rows, columns = (
        resize_matrix(have, want, resample) @ _enlarge_line(n, have)
        for n, have, want in zip(maps.shape[1:3], size, label_size, strict=True)
    )
    return apply_matrices(maps, rows, columns)


def _enlarge_line(n: int, length: int) -> np.ndarray:
    """Bicubic weights from `n` outputs of a network to `length` unpadded inputs.

    A network whose outputs pin the corners has one more of them than its stride
    divides: the stride is the power of two that covers the padded line.
    """
    stride = 1
    while stride * n < length + -length % _MULTIPLE:
        stride *= 2
    return resize_matrix(n, stride * n, "bicubic")[:length]
