"""Logits at the size of the input, from overlapping windows or in one piece."""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from sfda_jax.ops.resize import resize_bilinear


@dataclasses.dataclass(frozen=True, kw_only=True)
class Windows:
    """How an image is cut up for the network.

    Attributes:
        size: height and width of a window; None takes the whole image as one. A window
            that is larger than the image shrinks to it.
        stride: distance of neighbouring windows; None is their size. The last window
            of a row or column is moved back inside the image.
        align_corners: how a window's logits are enlarged to its size.
    """

    size: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    align_corners: bool = False


def starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows along a line begin.

    Args:
        length: of the line.
        window: of a window, at most `length`.
        stride: distance of neighbouring windows, at least 1.

    Example:
        >>> starts(30, 16, 10)
        [0, 10, 14]
    """
    steps = math.ceil((length - window) / stride)
    return [min(step * stride, length - window) for step in range(steps + 1)]


def window_logits(
    network: Callable[[Float[Array, "b h w 3"]], Float[Array, "b _h _w c"]],
    images: Float[Array, "b H W 3"],
    windows: Windows,
) -> Float[Array, "b H W c"]:
    """Mean over windows of the network's logits, each enlarged to its window's size.

    The network is compiled once, for one window; one window is worked on at a time.

    Args:
        network: from images to logits at any stride.
        images: normalised RGB.
        windows: how to cut.
    """
    whole = images.shape[1:3]
    wanted = windows.size or whole
    size = (min(wanted[0], whole[0]), min(wanted[1], whole[1]))
    stride = windows.stride or size
    corners = np.array(
        [
            (top, left)
            for top in starts(whole[0], size[0], stride[0])
            for left in starts(whole[1], size[1], stride[1])
        ],
        np.int32,
    )

    def enlarged(part):
        logits = network(part).astype(jnp.float32)
        return resize_bilinear(logits, size, align_corners=windows.align_corners)

    if len(corners) == 1:
        return enlarged(images)
    batch = images.shape[0]
    part = jax.ShapeDtypeStruct((batch, *size, images.shape[3]), images.dtype)
    classes = jax.eval_shape(enlarged, part).shape[-1]

    def add(total, corner):
        place = (0, corner[0], corner[1], 0)
        part = lax.dynamic_slice(images, place, (batch, *size, images.shape[3]))
        before = lax.dynamic_slice(total, place, (batch, *size, classes))
        return lax.dynamic_update_slice(total, before + enlarged(part), place), None

    total = jnp.zeros((batch, *whole, classes), jnp.float32)
    total, _ = lax.scan(add, total, jnp.asarray(corners))
    return total / _counts(whole, size, corners)


def _counts(
    whole: tuple[int, int], size: tuple[int, int], corners: Int[np.ndarray, "n 2"]
) -> Float[np.ndarray, "1 H W 1"]:
    """How many windows cover each pixel."""
    counts = np.zeros((1, *whole, 1), np.float32)
    for top, left in corners:
        counts[:, top : top + size[0], left : left + size[1]] += 1
    return counts
