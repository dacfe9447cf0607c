"""BiSMAP's training samples: rescaled, recoloured and cropped, not of a single class.

bismap.md, sections 4.3 and 4.5. Images leave as uint8; normalisation happens on the
device.
"""

import dataclasses

import numpy as np
from jaxtyping import Float32, Shaped, UInt8

from sfda_jax.data import image_ops
from sfda_jax.data.crop_geometry import CropGeometry
from sfda_jax.data.image_ops import ImageArray
from sfda_jax.data.mining import Draws
from sfda_jax.data.training_labels import ReadLabels, training_labels
from sfda_jax.errors import ConfigError
from sfda_jax.types import Record

Size = tuple[int, int]

TRIES = 20
"""Crops drawn at most; the last is taken where none is accepted."""

_ORDER = (3, 0, 2, 1)  # of `image_ops.JITTER`: hue, brightness, saturation, contrast


@dataclasses.dataclass(frozen=True, kw_only=True)
class RetriedDecisions:
    """What is drawn for one image.

    Attributes:
        geometry: how it is rescaled, cropped and mirrored.
        jitter: of brightness, contrast, saturation (factors) and hue (share of a
            turn); None leaves the operation out.
    """

    geometry: CropGeometry
    jitter: tuple[float | None, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RetriedCrop:
    """`images` uint8[h,w,3], `labels` uint8[h,w] and `index` of an image for BiSMAP.

    With `weight_map`, also `weights` float32[h,w]. The published settings are those of
    GTA5; Cityscapes has `full_size=(1024, 2048)`, `base_width=2048` and
    `jitter=(0.1, 0.5, 0.5, 0.1)`.

    Attributes:
        full_size: (height, width) of the image before it is rescaled; () keeps its own.
        base_width: width that a factor of 1 gives; 0 is that of the full size.
        scale_range: smallest and largest factor.
        jitter: strengths of brightness, contrast, saturation (factors 1 - s to 1 + s)
            and hue (-s to s); 0 leaves that operation out.
        crop_size: (height, width) of the crop.
        max_share: a crop is drawn again while one label, 255 included, has this share
            of it or more.
        flip_probability: of a mirrored image.
        gamma: exponent of a tone curve applied first, 1.0 for none.
        pseudo: labels of target images by their id.
        weight_map: loss weights of the whole image by its id, of any size: floats, or
            uint8 in units of 1/255.
    """

    full_size: tuple[int, ...] = (1052, 1914)
    base_width: int = 2200
    scale_range: tuple[float, float] = (0.5, 1.5)
    jitter: tuple[float, float, float, float] = (0.5, 0.5, 0.5, 0.2)
    crop_size: Size = (512, 896)
    max_share: float = 1.0
    flip_probability: float = 0.5
    gamma: float = 1.0
    pseudo: ReadLabels | None = None
    weight_map: ReadLabels | None = None

    def __post_init__(self):
        low, high = self.scale_range
        if not 0 < low <= high:
            raise ConfigError(
                f"scale_range {self.scale_range}: expected the smallest and the "
                "largest factor, above 0."
            )
        if len(self.full_size) not in (0, 2):
            raise ConfigError(
                f"full_size {self.full_size}: expected (height, width), or () for each "
                "image's own."
            )

    def __call__(
        self, record: Record, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """The arrays of one record; it carries its `index`."""
        return self.sample(self.toned(record), rng)[0]

    def toned(self, record: Record) -> Record:
        """The record with the tone curve applied."""
        return {**record, "image": image_ops.tone(record["image"], self.gamma)}

    def sample(
        self, record: Record, rng: Draws
    ) -> tuple[dict[str, np.ndarray], CropGeometry]:
        """The arrays of a toned record, and where its other views have to look."""
        image = self.full_image(record["image"])
        labels = training_labels({**record, "image": image}, self.pseudo)
        decisions = self.draw(rng, labels)
        out_image, out_labels = self.apply(image, labels, decisions)
        arrays = {
            "images": out_image,
            "labels": out_labels,
            "index": np.array(record["index"], np.int32),
        }
        if self.weight_map is not None:
            arrays["weights"] = self.apply_weights(
                self.weight_map(record["id"]), labels.shape, decisions.geometry
            )
        return arrays, decisions.geometry

    def full_image(self, image: ImageArray) -> UInt8[np.ndarray, "full_h full_w 3"]:
        """The image at `full_size`."""
        size = self.full_size or image.shape[:2]
        return image_ops.resize(image, size, "bilinear")

    def draw(self, rng: Draws, labels: UInt8[np.ndarray, "h w"]) -> RetriedDecisions:
        """The decisions for one image.

        Args:
            rng: gives scale, hue, brightness, saturation, contrast, column and row of
                each crop tried, mirror.
            labels: train ids at the full size.
        """
        size = self.rescale_size(labels.shape, self._uniform(rng, *self.scale_range))
        jitter: list[float | None] = [None] * len(_ORDER)
        for operation in _ORDER:
            strength = self.jitter[operation]
            if strength:
                shift = image_ops.JITTER[operation] is image_ops.hue
                low = -strength if shift else max(0.0, 1 - strength)
                high = strength if shift else 1 + strength
                jitter[operation] = self._uniform(rng, low, high)
        corner = self.draw_corner(rng, image_ops.resize(labels, size, "nearest"))
        geometry = CropGeometry(
            rescale_size=size,
            crop_size=self.crop_size,
            corner=corner,
            flip=rng.random() < self.flip_probability,
        )
        return RetriedDecisions(geometry=geometry, jitter=tuple(jitter))

    def rescale_size(self, size: Size, factor: float) -> Size:
        """(height, width) that an image of the full size is rescaled to."""
        width = int(factor * (self.base_width or size[1]))
        return int(width / (size[1] / size[0])), width

    def draw_corner(
        self, rng: Draws, labels: UInt8[np.ndarray, "h w"]
    ) -> tuple[int, int] | None:
        """First row and column of a crop; None for labels not larger than it.

        Args:
            rng: gives a column, then a row, of every try.
            labels: rescaled.
        """
        (have_h, have_w), (height, width) = labels.shape, self.crop_size
        small = have_h < height or have_w < width
        if small or (have_h, have_w) == (height, width):
            return None
        for _ in range(TRIES):
            left = int(rng.integers(0, have_w - width + 1))
            top = int(rng.integers(0, have_h - height + 1))
            seen = labels[top : top + height, left : left + width]
            if np.bincount(seen.ravel()).max() / seen.size < self.max_share:
                break
        return top, left

    def apply(
        self,
        image: ImageArray,
        labels: UInt8[np.ndarray, "h w"],
        decisions: RetriedDecisions,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Image and label map of the full size, augmented alike; pure."""
        geometry = decisions.geometry
        image = image_ops.resize(image, geometry.rescale_size, "bilinear")
        # All of the image, as contrast is about its mean grey.
        for operation in _ORDER:
            factor = decisions.jitter[operation]
            if factor is not None:
                image = image_ops.JITTER[operation](image, factor)
        labels = image_ops.resize(labels, geometry.rescale_size, "nearest")
        return geometry.cut(image, "bilinear"), geometry.cut(labels, "nearest")

    @staticmethod
    def apply_weights(
        weights: Shaped[np.ndarray, "mh mw"], full_size: Size, geometry: CropGeometry
    ) -> Float32[np.ndarray, "ch cw"]:
        """Loss weights where the crop lies.

        Args:
            weights: as stored, of any size.
            full_size: (height, width) of the image before it is rescaled.
            geometry: of the same image.
        """
        seen = geometry.nearest(weights, full_size)
        levels = 255 if seen.dtype == np.uint8 else 1
        return seen.astype(np.float32) / np.float32(levels)

    @staticmethod
    def _uniform(rng: Draws, low: float, high: float) -> float:
        return low + (high - low) * rng.random()
