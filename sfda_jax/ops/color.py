"""From stored pixels to network input."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

MEAN = (0.485, 0.456, 0.406)
"""Channel means of ImageNet, RGB, of images scaled to 0..1."""

STD = (0.229, 0.224, 0.225)
"""Channel standard deviations of ImageNet, RGB, of images scaled to 0..1."""


def normalize(
    images: Shaped[Array | np.ndarray, "*b h w 3"],
) -> Float[Array, "*b h w 3"]:
    """Network input, float32: `(images / 255 - MEAN) / STD`.

    Floating-point images are taken as normalised already and pass unchanged, so a
    method may hand over images it has warped or mixed on the device.

    Args:
        images: RGB, uint8 0..255, or already normalised floats.
    """
    if jnp.issubdtype(images.dtype, jnp.floating):
        return jnp.asarray(images)
    shape = (1,) * (images.ndim - 1) + (3,)
    mean, std = (np.asarray(v, np.float32).reshape(shape) for v in (MEAN, STD))
    return (jnp.asarray(images, jnp.float32) / 255 - mean) / std
