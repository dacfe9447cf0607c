"""Where a random crop comes from, and what maps and other views show there.

bismap.md, section 4.2: a training image is rescaled as Pillow does it; what follows it
is rescaled as PyTorch does, and so lies a fraction of a pixel beside it, as published.
"""

import dataclasses

import numpy as np
from jaxtyping import Float32, Int, Real, Shaped, UInt8

from sfda_jax.data import image_ops
from sfda_jax.data.image_ops import Resample
from sfda_jax.data.interpolation import (
    aligned,
    blended,
    pillow_nearest,
    torch_nearest,
)

Size = tuple[int, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CropGeometry:
    """Rescaling, crop and mirroring of one image.

    Attributes:
        rescale_size: (height, width) of the whole image before the crop.
        crop_size: (height, width) of the crop.
        corner: (row, column) of the crop in the rescaled image; None where that is not
            larger than the crop: then it is resized to `crop_size` instead.
        flip: mirror left to right, after the crop.
    """

    rescale_size: Size
    crop_size: Size
    corner: tuple[int, int] | None
    flip: bool

    def cut(
        self, rescaled: UInt8[np.ndarray, "..."], resample: Resample
    ) -> UInt8[np.ndarray, "..."]:
        """The crop of an image or label map that is rescaled already.

        Args:
            rescaled: of `rescale_size`.
            resample: the filter, where all of it is resized.
        """
        if self.corner is None:
            found = image_ops.resize(rescaled, self.crop_size, resample)
        else:
            found = rescaled[self._window(0), self._window(1)]
        return self._mirrored(found)

    def nearest(
        self, values: Shaped[np.ndarray, "h w"], full_size: Size
    ) -> Shaped[np.ndarray, "ch cw"]:
        """A stored map where the crop lies, in its own dtype.

        Resized to `full_size` with Pillow's nearest, then rescaled with PyTorch's.

        Args:
            values: a map of the whole image, of any size.
            full_size: (height, width) of the image before it is rescaled.
        """
        rows, columns = (
            pillow_nearest(have, want)[self._places(axis, want)]
            for axis, (have, want) in enumerate(
                zip(values.shape, full_size, strict=True)
            )
        )
        return self._mirrored(values[rows[:, None], columns])

    def bilinear(
        self, image: Real[np.ndarray, "h w 3"]
    ) -> Float32[np.ndarray, "ch cw 3"]:
        """An image where the crop lies, in its own range and not rounded.

        Bilinear with aligned corners and without antialiasing, as PyTorch has it.
        """
        axes = _aligned(image.shape, self.rescale_size)
        if self.corner is None:
            whole = blended(image, *axes)
            found = blended(whole, *_aligned(whole.shape, self.crop_size))
        else:
            rows, columns = (axes[i][self._window(i)] for i in range(2))
            found = blended(image, rows, columns)
        return self._mirrored(found)

    def _window(self, axis: int) -> slice:
        return slice(self.corner[axis], self.corner[axis] + self.crop_size[axis])

    def _places(self, axis: int, full: int) -> Int[np.ndarray, "n"]:
        """Row (or column) of the image for each of the crop, before mirroring."""
        rescaled = self.rescale_size[axis]
        places = torch_nearest(full, rescaled)
        if self.corner is None:
            return places[torch_nearest(rescaled, self.crop_size[axis])]
        return places[self._window(axis)]

    def _mirrored(self, crop: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(crop[:, ::-1] if self.flip else crop)


def _aligned(shape: tuple[int, ...], size: Size):
    return tuple(aligned(*pair) for pair in zip(shape, size, strict=False))
