"""CRST's training samples: rescaled crops, target ones often around a rare class.

cbst_crst.md, section 5.4. Images leave as uint8 with the places of padding, which must
become 0 after normalisation on the device.
"""

import dataclasses
from typing import ClassVar

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8

from sfda_jax.data import image_ops
from sfda_jax.data.interpolation import Axis, blended
from sfda_jax.data.mining import Draws, MiningCrop, mined_pixel
from sfda_jax.data.training_labels import nearest_rows
from sfda_jax.errors import ConfigError
from sfda_jax.types import IGNORE

Size = tuple[int, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScaledDecisions:
    """What is drawn for one image.

    Attributes:
        factor: of both sides; None leaves the image unscaled.
        top: first row of the crop in the rescaled image, padded to the crop's size.
        left: first column.
        flip: mirror left to right.
    """

    factor: float | None
    top: int
    left: int
    flip: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScaledCrop(MiningCrop):
    """`images` uint8[h,w,3], `valid` bool[h,w] and `labels` uint8[h,w] for CRST.

    See `MiningCrop`. `valid` is False where an image smaller than the crop was padded:
    the network's input is 0 there, `where(valid, normalised, 0)`.

    Attributes:
        size: (height, width) of the crop, even.
        scale_range: smallest and largest factor, in steps of 0.1.
        flip: mirror half of the images.
        mine_source: mine on source images too; not published.
        others: as of `MiningCrop`; not published.
    """

    size: Size = (512, 1024)
    scale_range: tuple[float, float] = (0.5, 1.5)
    flip: bool = True
    mine_source: bool = False

    outputs: ClassVar[tuple[str, ...]] = ("images", "valid", "labels")

    def __post_init__(self):
        super().__post_init__()
        if any(side < 2 or side % 2 for side in self.size):
            raise ConfigError(
                f"size {self.size}: expected even sides, so that a crop has a middle."
            )

    def draw(
        self, rng: Draws, labels: UInt8[np.ndarray, "h w"], *, target: bool
    ) -> ScaledDecisions:
        """The decisions for one image.

        Args:
            rng: gives factor, mining, class and pixel or else row and column, mirror.
            labels: train ids at the image's size.
            target: which of the two domains it is of.
        """
        low, high = self.scale_range
        factor = None
        if low < high:
            steps = round((high - low) * 10)
            factor = low + int(rng.integers(0, steps + 1)) / 10
        elif low != 1:
            factor = low
        labels = _rescaled(labels, factor, cv2.INTER_NEAREST)
        seed = None
        mine = target or self.mine_source
        if mine and rng.random() < self.mine_probability:
            seed = mined_pixel(labels, rng, priority=self.priority, others=self.others)
        whole = [max(pair) for pair in zip(labels.shape, self.size, strict=True)]
        if seed is None:
            top, left = (
                int(rng.integers(0, have - want + 1))
                for have, want in zip(whole, self.size, strict=True)
            )
        else:
            top, left = (
                min(max(at - want // 2, 0), have - want)
                for at, have, want in zip(seed, whole, self.size, strict=True)
            )
        flip = self.flip and int(rng.integers(0, 2)) == 0
        return ScaledDecisions(factor=factor, top=top, left=left, flip=flip)

    def apply(
        self,
        image: UInt8[np.ndarray, "h w 3"],
        labels: UInt8[np.ndarray, "h w"],
        decisions: ScaledDecisions,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(image, valid, labels) rescaled, cropped and mirrored alike; pure."""
        box = self._box(decisions)
        image = _rescaled(image, decisions.factor, cv2.INTER_LINEAR)
        labels = _rescaled(labels, decisions.factor, cv2.INTER_NEAREST)
        valid = np.zeros(self.size, bool)
        valid[: labels.shape[0] - box[0], : labels.shape[1] - box[2]] = True
        image = image_ops.crop_filled(image, box, 0)
        labels = image_ops.crop_filled(labels, box, IGNORE)
        parts = (image, valid, labels)
        if decisions.flip:
            parts = tuple(part[:, ::-1] for part in parts)
        return tuple(np.ascontiguousarray(part) for part in parts)

    def apply_soft(
        self,
        weights: Float[np.ndarray, "mh mw c"],
        size: Size,
        decisions: ScaledDecisions,
    ) -> Float32[np.ndarray, "ch cw c"]:
        """Class weights of the crop, 0 where the image is padded.

        A rescaled map is divided by its sum over the classes.

        Args:
            weights: as stored; of another size than the image's, taken nearest.
            size: (height, width) of the image.
            decisions: of the same image.
        """
        first = (decisions.top, decisions.left)
        rows, columns = (
            _places(
                stored=weights.shape[axis],
                have=size[axis],
                factor=decisions.factor or 1.0,
                first=first[axis],
                want=self.size[axis],
            )
            for axis in range(2)
        )
        seen = blended(weights, rows, columns)
        if decisions.factor is not None:
            sums = np.einsum("hwc->hw", seen)
            seen /= np.where(sums > 0, sums, np.float32(1))[..., None]
        cut = np.zeros((*self.size, weights.shape[2]), np.float32)
        cut[: seen.shape[0], : seen.shape[1]] = seen
        return np.ascontiguousarray(cut[:, ::-1]) if decisions.flip else cut

    def _box(self, decisions: ScaledDecisions) -> tuple[int, int, int, int]:
        top, left = decisions.top, decisions.left
        return top, top + self.size[0], left, left + self.size[1]


def _rescaled(array: np.ndarray, factor: float | None, how: int) -> np.ndarray:
    if factor is None:
        return array
    array = np.ascontiguousarray(array)
    return cv2.resize(array, None, fx=factor, fy=factor, interpolation=how)


def _places(*, stored: int, have: int, factor: float, first: int, want: int) -> Axis:
    """Where the rows of a crop lie in a stored map, as OpenCV's bilinear resize has it.

    Args:
        stored: rows of the map, which stands for the whole image.
        have: rows of the image.
        factor: of the rescaling before the crop.
        first: row of the crop in the rescaled image.
        want: rows of the crop; there are fewer places where the image ends before.
    """
    count = min(want, round(have * factor) - first)
    at = np.maximum((first + np.arange(count) + 0.5) / factor - 0.5, 0)
    before = np.minimum(at.astype(np.int64), have - 1)
    after = np.minimum(before + 1, have - 1)
    rows = nearest_rows(stored, have)
    return Axis(rows[before], rows[after], (at - before).astype(np.float32))
