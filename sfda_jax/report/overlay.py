"""Class colours laid over the image."""

import numpy as np
from jaxtyping import Integer, UInt8

from sfda_jax.report.palette import colorize
from sfda_jax.tasks import ClassSpace


def overlay(
    image: UInt8[np.ndarray, "h w 3"],
    labels: Integer[np.ndarray, "h w"],
    classes: ClassSpace,
    *,
    weight: float = 0.55,
) -> UInt8[np.ndarray, "h w 3"]:
    """The image tinted with class colours; pixels without a class stay as they are.

    Args:
        image: RGB.
        labels: train ids of the same size.
        classes: palette.
        weight: share of the colour, 0 to 1.
    """
    color = colorize(labels, classes)
    mixed = np.rint((1 - weight) * image + weight * color).astype(np.uint8)
    known = labels < classes.num_classes
    return np.where(known[:, :, None], mixed, image)
