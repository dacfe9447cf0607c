"""CBST's training samples: a square crop, often around a rare class, at a fixed size.

cbst_crst.md, section 5.3. Images leave as uint8; normalisation happens on the device.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, UInt8

from sfda_jax.data import image_ops
from sfda_jax.data.mining import Draws, MiningCrop, mined_pixel
from sfda_jax.data.training_labels import nearest_rows
from sfda_jax.errors import ConfigError
from sfda_jax.types import IGNORE

_FILL = tuple(int(255 * mean) for mean in image_ops.MEAN)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MinedDecisions:
    """What is drawn for one image.

    Attributes:
        side: of the square crop, in pixels of the stored image.
        top: first row; the crop may leave the image on all sides.
        left: first column.
        flip: mirror left to right.
    """

    side: int
    top: int
    left: int
    flip: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class MinedCrop(MiningCrop):
    """`images` uint8[S,S,3] and `labels` uint8[S/8,S/8] for CBST; see `MiningCrop`.

    Attributes:
        crop_size: side of the samples; S is the next multiple of `stride`.
        long_sides: long side of source and target images that a zoom of 1 refers to;
            0 for each image's own. Published: 2048, for SYNTHIA 1280.
        origin_sizes: long side of source and target images at a zoom of 1; empty for
            `long_sides`.
        stride: of the network; zooming in by 2 halves it in pixels of the image.
        grid: labels only at the centres of the network's cells, rows and columns
            stride / 2, 3 stride / 2, ...; otherwise of every pixel.
        mine_source: mine on source images too, as published.
    """

    crop_size: int = 500
    scale_range: tuple[float, float] = (0.7, 1.3)
    long_sides: tuple[int, int] = (2048, 2048)
    origin_sizes: tuple[int, ...] = ()
    stride: int = 8
    grid: bool = True
    mine_source: bool = True

    def __post_init__(self):
        super().__post_init__()
        if len(self.origin_sizes) not in (0, 2):
            raise ConfigError(
                f"{len(self.origin_sizes)} origin_sizes, expected source and target's."
            )

    @property
    def size(self) -> int:
        """S, the side of the samples."""
        return -(-self.crop_size // self.stride) * self.stride

    def draw(
        self, rng: Draws, labels: UInt8[np.ndarray, "h w"], *, target: bool
    ) -> MinedDecisions:
        """The decisions for one image.

        Args:
            rng: gives zoom, mining, class and pixel or else row and column, mirror.
            labels: train ids at the image's size.
            target: which of the two domains it is of.
        """
        long_side = self.long_sides[target] or max(labels.shape)
        origin = self.origin_sizes[target] if self.origin_sizes else long_side
        low, high = (int(zoom * origin) for zoom in self.scale_range)
        rate = int(rng.integers(low, high + 1)) / long_side
        side, stride = int(self.size / rate), self.stride / rate
        margin = max(1, int(stride // 2))  # the published canvas around the image
        seed = None
        if rng.random() < self.mine_probability and (target or self.mine_source):
            window = self._admissible(labels.shape, side, stride, margin)
            seed = mined_pixel(
                labels,
                rng,
                priority=self.priority,
                others=self.others,
                window=window,
            )
        if seed is None:
            top, left = (
                int(rng.integers(0, int(max(1, stride, margin + length - side + 1))))
                - margin
                for length in labels.shape
            )
        else:
            top, left = (at - side // 2 for at in seed)
        flip = int(rng.integers(0, 2)) == 0
        return MinedDecisions(side=side, top=top, left=left, flip=flip)

    def _admissible(
        self, size: tuple[int, int], side: int, stride: float, margin: int
    ) -> tuple[slice, slice]:
        """Where in the image the published reader looks for rare classes."""
        half = side // 2
        stops = (int(max(1, stride, margin + n - half - 1)) - margin for n in size)
        rows, columns = (slice(half, max(stop, 0)) for stop in stops)
        return rows, columns

    def apply(
        self,
        image: UInt8[np.ndarray, "h w 3"],
        labels: UInt8[np.ndarray, "h w"],
        decisions: MinedDecisions,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Image and labels cropped, resized and mirrored alike; pure."""
        box = _box(decisions)
        image = image_ops.crop_filled(image, box, _FILL)
        image = image_ops.resize_by_rule(image, (self.size, self.size))
        labels = image_ops.crop_filled(labels, box, IGNORE)
        at = self._label_places(decisions.side)
        labels = labels[at[:, None], at]
        if decisions.flip:
            image, labels = image_ops.flip(image), image_ops.flip(labels)
        return np.ascontiguousarray(image), np.ascontiguousarray(labels)

    def apply_soft(
        self,
        weights: Float[np.ndarray, "mh mw c"],
        size: tuple[int, int],
        decisions: MinedDecisions,
    ) -> Float[np.ndarray, "s s c"]:
        """Class weights where `apply` takes its labels; beyond the image, its border's.

        Args:
            weights: as stored, of any size.
            size: (height, width) of the image.
            decisions: of the same image.
        """
        at = self._label_places(decisions.side)
        places = []
        for first, have, want in zip(
            (decisions.top, decisions.left), weights.shape, size, strict=False
        ):
            inside = np.clip(first + at, 0, want - 1)
            places.append(nearest_rows(have, want)[inside])
        picked = weights[places[0][:, None], places[1]].astype(np.float32)
        if decisions.flip:
            picked = picked[:, ::-1]
        return np.ascontiguousarray(picked)

    def _label_places(self, side: int) -> np.ndarray:
        """Rows (and columns) of the crop that labels are read from."""
        rows = nearest_rows(side, self.size)
        return rows[self.stride // 2 :: self.stride] if self.grid else rows


def _box(decisions: MinedDecisions) -> tuple[int, int, int, int]:
    top, left, side = decisions.top, decisions.left, decisions.side
    return top, top + side, left, left + side
