"""The network's input at a size of its own, with the filters of the publications."""

import dataclasses
import math

import numpy as np

from sfda_jax.data import image_ops
from sfda_jax.data.training_labels import is_target
from sfda_jax.errors import ConfigError
from sfda_jax.registry import check_choice
from sfda_jax.types import Record

FILTERS = ("bilinear", "bicubic", "lanczos", "rule", "opencv")
"""What `SizedInput.resample` may be."""


def input_size(
    stored: tuple[int, int], size: tuple[int, ...] = (), scale: float = 1.0
) -> tuple[int, int]:
    """(height, width) that an image is resized to.

    Args:
        stored: (height, width) of the image.
        size: (height, width); one number is the longer side, the shorter follows,
            rounded; empty keeps the image's own.
        scale: factor of the image's own size, rounded half to even.

    Example:
        >>> input_size((1024, 2048), (1850,)), input_size((1024, 2048), scale=0.9)
        ((925, 1850), (922, 1843))
    """
    if not size:
        height, width = (round(side * scale) for side in stored)
        return height, width
    if len(size) == 2:
        return size[0], size[1]
    factor = size[0] / max(stored)
    height, width = (
        size[0] if side == max(stored) else math.floor(side * factor + 0.5)
        for side in stored
    )
    return height, width


@dataclasses.dataclass(frozen=True, kw_only=True)
class SizedInput:
    """`images` uint8[h,w,3] at one size.

    Attributes:
        size: (height, width), or the longer side alone; empty keeps the image's own.
        scale: factor of the image's own size, instead of `size`.
        resample: `bilinear`, `bicubic`, `lanczos` as Pillow has them (antialiased),
            `rule` the filter of `image_ops.rule`, `opencv` OpenCV's bilinear.
        gamma: exponent of a tone curve applied first, 1.0 for none.
    """

    size: tuple[int, ...] = ()
    scale: float = 1.0
    resample: str = "bilinear"
    gamma: float = 1.0

    def __post_init__(self):
        """Checks the settings.

        Raises:
            ConfigError: an unknown filter, a size of more than two numbers, or both a
                size and a scale.
        """
        check_choice("resample", self.resample, FILTERS)
        if len(self.size) > 2 or (self.size and self.scale != 1.0):
            raise ConfigError(
                f"An input of size={self.size}, scale={self.scale} means nothing.",
                hint="Give size=(height, width), size=(longer side,) or scale alone.",
            )

    def __call__(
        self, record: Record, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """The arrays of one record."""
        image = image_ops.tone(record["image"], self.gamma)
        size = input_size(image.shape[:2], self.size, self.scale)
        match self.resample:
            case "opencv" if not self.size:
                image = image_ops.resize_opencv(image, scale=self.scale)
            case "opencv":
                image = image_ops.resize_opencv(image, size)
            case "rule":
                image = image_ops.resize_by_rule(image, size)
            case filter_:
                image = image_ops.resize(image, size, filter_)
        return {"images": image}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SizedRecord(SizedInput):
    """`SizedInput` with the record's `index`, and a source record's `labels`.

    Labels uint8[h,w] are brought to the input's size, nearest.
    """

    def __call__(
        self, record: Record, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """The arrays of one record."""
        arrays = super().__call__(record, rng)
        arrays["index"] = np.array(record["index"], np.int32)
        if not is_target(record):
            size = arrays["images"].shape[:2]
            arrays["labels"] = image_ops.resize(record["label"], size, "nearest")
        return arrays
