"""A second view of a training crop: other colours, and a box that hides a part.

bismap.md, section 4.4: what the student sees where its teacher sees the plain crop.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float32

from sfda_jax.data import image_ops
from sfda_jax.data.crop_geometry import CropGeometry
from sfda_jax.data.image_ops import ImageArray
from sfda_jax.data.mining import Draws
from sfda_jax.data.rand_augment import Choice, draw_choices, rand_augment
from sfda_jax.data.retried_crop import RetriedCrop
from sfda_jax.types import Record

Size = tuple[int, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OccludedDecisions:
    """What is drawn for the second view.

    Attributes:
        choices: operations of RandAugment, one after the other.
        centre: (row, column) the hidden box lies around, in pixels of the crop.
    """

    choices: tuple[Choice, ...]
    centre: tuple[float, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OccludedView:
    """The arrays of `crop`, with a second view of the same part of the image.

    `student_images` float32[h,w,3] shows it without the colour jitter of `crop` but
    with RandAugment's, rescaled without rounding and so normalised already, as a
    network takes floats; `occluded` bool[h,w] is True in the box that is black there.

    Attributes:
        crop: how the first view is made; of target images.
        operations: of RandAugment, each applied half of the time.
        hidden_share: side of the box, over the crop's width.
    """

    crop: RetriedCrop
    operations: int = 2
    hidden_share: float = 0.2

    def __call__(
        self, record: Record, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """The arrays of one record; it carries its `index`."""
        record = self.crop.toned(record)
        arrays, geometry = self.crop.sample(record, rng)
        seen, occluded = self.apply(record["image"], geometry, self.draw(rng))
        return {**arrays, "student_images": seen, "occluded": occluded}

    def draw(self, rng: Draws) -> OccludedDecisions:
        """The decisions for one image: operations, column and row of the box."""
        height, width = self.crop.crop_size
        choices = draw_choices(rng, self.operations)
        column, row = width * rng.random(), height * rng.random()
        return OccludedDecisions(choices=choices, centre=(row, column))

    def apply(
        self, image: ImageArray, geometry: CropGeometry, decisions: OccludedDecisions
    ) -> tuple[Float32[np.ndarray, "ch cw 3"], Bool[np.ndarray, "ch cw"]]:
        """(second view, where it is hidden) of an image as stored; pure."""
        changed = rand_augment(image, decisions.choices)
        seen = geometry.bilinear(self.crop.full_image(changed))
        occluded = self._box(decisions.centre)
        seen[occluded] = 0
        return image_ops.normalise_float(seen), occluded

    def _box(self, centre: tuple[float, float]) -> Bool[np.ndarray, "ch cw"]:
        """True in the box: less than its side where the crop's border cuts it."""
        side = int(self.hidden_share * self.crop.crop_size[1])
        hidden = np.zeros(self.crop.crop_size, bool)
        rows, columns = (
            slice(first, int(min(have, first + side)))
            for have, first in zip(
                hidden.shape, (int(max(0, c - side / 2)) for c in centre), strict=True
            )
        )
        hidden[rows, columns] = True
        return hidden
