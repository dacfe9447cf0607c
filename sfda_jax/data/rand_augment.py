"""RandAugment without geometry: Pillow's operations on colour, at drawn strengths.

bismap.md, section 4.4; after Cubuk et al., "RandAugment" (NeurIPS 2020).
"""

from collections.abc import Callable, Iterable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from sfda_jax.data.image_ops import ImageArray
from sfda_jax.data.mining import Draws

STRENGTHS = range(1, 10)
"""What the strength of an operation may be."""

Choice = tuple[int, int]
"""Index of one of `OPERATIONS`, and its strength."""


def _blend(strength: int) -> float:
    """Factor of Pillow's enhancers, 0.14 to 0.86: always darker, greyer, flatter."""
    return 0.9 * strength / 10 + 0.05


OPERATIONS: tuple[Callable[[Image.Image, int], Image.Image], ...] = (
    lambda image, _: ImageOps.autocontrast(image),
    lambda image, v: ImageEnhance.Brightness(image).enhance(_blend(v)),
    lambda image, v: ImageEnhance.Color(image).enhance(_blend(v)),
    lambda image, v: ImageEnhance.Contrast(image).enhance(_blend(v)),
    lambda image, _: ImageOps.equalize(image),
    lambda image, _: image,
    lambda image, v: ImageOps.posterize(image, int(4 * v / 10) + 4),
    lambda image, v: ImageEnhance.Sharpness(image).enhance(_blend(v)),
    lambda image, v: ImageOps.solarize(image, 256 - int(256 * v / 10)),
)
"""Autocontrast, brightness, colour, contrast, equalise, none, posterise, sharpness and
solarise, in the published order."""


def draw_choices(rng: Draws, count: int) -> tuple[Choice, ...]:
    """`count` operations drawn with replacement; about half of them are left out."""
    drawn = [
        (
            int(rng.integers(0, len(OPERATIONS))),
            int(rng.integers(STRENGTHS.start, STRENGTHS.stop)),
            rng.random() < 0.5,
        )
        for _ in range(count)
    ]
    return tuple((index, strength) for index, strength, kept in drawn if kept)


def rand_augment(image: ImageArray, choices: Iterable[Choice]) -> ImageArray:
    """The image after the operations, one after the other; pure.

    Args:
        image: the whole image: several operations look at all of it.
        choices: from `draw_choices`, or recorded.
    """
    changed = Image.fromarray(image)
    for index, strength in choices:
        changed = OPERATIONS[index](changed, strength)
    return np.asarray(changed)
