"""From stored pixels to network input."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

MEAN = (0.485, 0.456, 0.406)
"""Channel means of ImageNet, RGB, of images scaled to 0..1."""

STD = (0.229, 0.224, 0.225)
"""Channel standard deviations of ImageNet, RGB, of images scaled to 0..1."""

SCHEMES = {
    "imagenet": (MEAN, STD),
    "unit": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "imagenet_mean_twice": (tuple(m + m / 255 for m in MEAN), STD),
}
"""Means and standard deviations by name, of RGB images scaled to 0..1.

All published segmentation networks take `imagenet`, whatever order of channels and
arithmetic their loaders use; SimCLR takes `unit`. `imagenet_mean_twice` is what
BiSMAP's SYNTHIA loader makes: it subtracts the mean from 0..255 already.
"""


def normalize(
    images: Shaped[Array | np.ndarray, "*b h w 3"], scheme: str = "imagenet"
) -> Float[Array, "*b h w 3"]:
    """Network input, float32: `(images / 255 - mean) / std`.

    Floating-point images are taken as normalised already and pass unchanged, so a
    method may hand over images it has warped or mixed on the device.

    Args:
        images: RGB, uint8 0..255, or already normalised floats.
        scheme: one of `SCHEMES`.
    """
    if jnp.issubdtype(images.dtype, jnp.floating):
        return jnp.asarray(images)
    return from_unit(jnp.asarray(images, jnp.float32) / 255, scheme)


def from_unit(
    images: Float[Array, "*b h w 3"], scheme: str = "imagenet"
) -> Float[Array, "*b h w 3"]:
    """Network input from RGB in [0, 1]."""
    mean, std = _statistics(images.ndim, scheme)
    return (images - mean) / std


def to_unit(
    images: Float[Array, "*b h w 3"], scheme: str = "imagenet"
) -> Float[Array, "*b h w 3"]:
    """RGB in [0, 1] from network input; the inverse of `from_unit`."""
    mean, std = _statistics(images.ndim, scheme)
    return images * std + mean


def _statistics(ndim: int, scheme: str) -> tuple[np.ndarray, np.ndarray]:
    shape = (1,) * (ndim - 1) + (3,)
    mean, std = (np.asarray(v, np.float32).reshape(shape) for v in SCHEMES[scheme])
    return mean, std
