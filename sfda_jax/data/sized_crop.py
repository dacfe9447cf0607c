"""IAST's augmentation: mirror, brightness and contrast, random sized crop.

iast.md, section 5.2 (as albumentations 1.0.3, which the released code used). Images
leave as uint8; normalisation happens on the device.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sized

import cv2
import numpy as np
from jaxtyping import UInt8

from sfda_jax.data import image_ops
from sfda_jax.data.mining import Draws
from sfda_jax.data.torch_order import fixed_order
from sfda_jax.data.training_labels import ReadLabels, is_target, training_labels
from sfda_jax.errors import ConfigError
from sfda_jax.types import Record, StreamSpec

Size = tuple[int, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SizedDecisions:
    """What is drawn for one image.

    Attributes:
        flip: mirror left to right.
        colour: (contrast factor a, brightness shift b), or None to leave colours.
        height: of the crop.
        top: where in the range of possible first rows, 0 to 1.
        left: the same for columns.
    """

    flip: bool
    colour: tuple[float, float] | None
    height: int
    top: float
    left: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class SizedCrop:
    """`images` uint8[h,w,3], `labels` uint8[h,w] and `index` of an image for IAST.

    `labels` is missing for target images without `pseudo`, as the warm-up reads them.

    Published crop heights, all with `size=(512, 1024)`: (341, 950) for GTA5,
    (341, 640) for SYNTHIA, (341, 1000) for Cityscapes.

    Attributes:
        size: (height, width) that crops are resized to.
        heights: smallest and largest height of the crop, in pixels of the stored image.
        aspect: width of the crop over its height, truncated; None for that of `size`.
        flip_probability: of a mirrored image.
        colour_probability: of changed brightness and contrast.
        contrast: largest change of the factor, 1 being none.
        brightness: largest shift, in units of 255.
        gamma: exponent of a tone curve applied first, 1.0 for none.
        pseudo: labels of target images by their id.
    """

    size: Size = (512, 1024)
    heights: tuple[int, int]
    aspect: float | None = None
    flip_probability: float = 0.5
    colour_probability: float = 0.3
    contrast: float = 0.2
    brightness: float = 0.2
    gamma: float = 1.0
    pseudo: ReadLabels | None = None

    def __post_init__(self):
        low, high = self.heights
        if not 0 < low <= high or self._width(low) < 1:
            raise ConfigError(
                f"heights {self.heights} with aspect {self._aspect}: expected the "
                "smallest and the largest height of a crop of at least one pixel."
            )

    def __call__(
        self, record: Record, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """The arrays of one record; it carries its `index`."""
        image, labels = image_ops.tone(record["image"], self.gamma), None
        if self.pseudo is not None or not is_target(record):
            labels = training_labels(record, self.pseudo)
        image, labels = self.apply(image, labels, self.draw(rng))
        arrays = {"images": image, "index": np.array(record["index"], np.int32)}
        return arrays if labels is None else {**arrays, "labels": labels}

    def draw(self, rng: Draws) -> SizedDecisions:
        """The decisions for one image."""
        flip = rng.random() < self.flip_probability
        colour = None
        if rng.random() < self.colour_probability:
            strengths = (self.contrast, self.brightness)
            factor, shift = (s * (2 * rng.random() - 1) for s in strengths)
            colour = (1 + factor, shift)
        low, high = self.heights
        height = int(rng.integers(low, high + 1))
        top, left = rng.random(), rng.random()
        return SizedDecisions(
            flip=flip, colour=colour, height=height, top=top, left=left
        )

    def apply(
        self,
        image: UInt8[np.ndarray, "h w 3"],
        labels: UInt8[np.ndarray, "h w"] | None,
        decisions: SizedDecisions,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Image and label map, if any, augmented alike; pure.

        Raises:
            ConfigError: the crop is larger than the image.
        """
        cut = functools.partial(
            _cut, box=self._box(image.shape[:2], decisions), flip=decisions.flip
        )
        image = cut(image)
        if decisions.colour is not None:  # of single pixels: after the crop is cheaper
            image = cv2.LUT(image, colour_levels(*decisions.colour))
        image = self._resized(image, cv2.INTER_LINEAR)
        if labels is not None:
            labels = self._resized(cut(labels), cv2.INTER_NEAREST)
        return image, labels

    def _resized(self, array: np.ndarray, how: int) -> np.ndarray:
        if array.shape[:2] == tuple(self.size):
            return array
        return cv2.resize(array, self.size[::-1], interpolation=how)

    def _box(self, size: Size, decisions: SizedDecisions) -> tuple[int, int, int, int]:
        height, width = decisions.height, self._width(decisions.height)
        if height > size[0] or width > size[1]:
            largest = max(h for h in range(size[0] + 1) if self._width(h) <= size[1])
            raise ConfigError(
                f"a crop of {height}x{width} does not fit into an image of "
                f"{size[0]}x{size[1]}.",
                hint=f"Crops are {self.heights[0]} to {self.heights[1]} high and "
                f"{self._aspect:g} times as wide; here they can be {largest} high.",
            )
        top = int((size[0] - height) * decisions.top)
        left = int((size[1] - width) * decisions.left)
        return top, top + height, left, left + width

    @property
    def _aspect(self) -> float:
        return self.size[1] / self.size[0] if self.aspect is None else self.aspect

    def _width(self, height: int) -> int:
        return int(self._aspect * height)


def sized_streams(
    crops: Mapping[str, SizedCrop],
    images: Callable[[str], Sized],
    *,
    batch_size: int,
    order: str,
) -> dict[str, StreamSpec]:
    """The streams of IAST and its warm-up, one for each domain.

    Args:
        crops: domain, `source` or `target`, → what is cut out of its images.
        images: domain → its images.
        batch_size: crops of a domain per step, over all devices.
        order: `published`: one fixed order of the images, the incomplete last batch
            left out; `shuffled`: a new order every epoch.

    Raises:
        DataError: fewer images than one batch holds, in the published order.
    """
    return {
        domain: StreamSpec(
            domain=domain,
            batch_size=batch_size,
            transform=crop,
            order=fixed_order(len(images(domain)), batch_size)
            if order == "published"
            else None,
        )
        for domain, crop in crops.items()
    }


def _cut(array: np.ndarray, box: tuple[int, int, int, int], flip: bool) -> np.ndarray:
    whole = image_ops.flip(array) if flip else array
    return np.ascontiguousarray(image_ops.crop(whole, box))


def colour_levels(factor: float, shift: float) -> UInt8[np.ndarray, "256"]:
    """trunc(clip(factor * v + 255 * shift, 0, 255)) of each level, in float32."""
    levels = np.arange(256, dtype=np.float32) * np.float32(factor)
    levels += np.float32(shift * 255)
    return np.clip(levels, 0, 255).astype(np.uint8)
