"""From a record to a network's arrays: training, evaluation, plain resizing.

A transform is called with a record and a generator, draws from nothing else, and
pickles. Images leave as uint8 RGB; normalisation happens on the device.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from sfda_jax.data import image_ops
from sfda_jax.data.copy_paste import CandidatePaster
from sfda_jax.data.image_ops import Resample
from sfda_jax.data.sized_input import SizedInput
from sfda_jax.data.strong_augment import (
    AugmentSettings,
    draw_decisions,
    draw_jitter,
    scaled,
    strong_augment,
)
from sfda_jax.errors import ConfigError, DataError
from sfda_jax.types import IGNORE, Record

Size = tuple[int, int]

_PUBLISHED = AugmentSettings()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resize:
    """`images` uint8[h,w,3] at one size.

    Attributes:
        size: (height, width); None keeps the image's own.
        resample: antialiased bilinear or bicubic.
        gamma: exponent of a tone curve applied first, 1.0 for none.
    """

    size: Size | None = None
    resample: Resample = "bilinear"
    gamma: float = 1.0

    def __call__(
        self, record: Record, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """The arrays of one record."""
        size = self.size or record["image"].shape[:2]
        image = image_ops.tone(record["image"], self.gamma)
        return {"images": image_ops.resize(image, size, self.resample)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluate:
    """`images` at the test size, and `labels` at their own size.

    `labels` is missing where the record has none.

    Attributes:
        size: (height, width) of the network's input, or its longer side alone; empty
            keeps the image's own.
        resample: see `SizedInput`.
        gamma: exponent of a tone curve applied first, 1.0 for none.
    """

    size: tuple[int, ...] = ()
    resample: str = "bicubic"
    gamma: float = 1.0

    def __post_init__(self):
        """Checks the settings.

        Raises:
            ConfigError: an unknown filter, a size of more than two numbers.
        """
        self._input()

    def _input(self) -> SizedInput:
        return SizedInput(size=self.size, resample=self.resample, gamma=self.gamma)

    def __call__(
        self, record: Record, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """The arrays of one record."""
        arrays = self._input()(record, rng)
        if "label" in record:
            arrays["labels"] = record["label"]
        return arrays


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceTrain:
    """`images` uint8[h,w,3] and `labels` uint8[h,w] for supervised training.

    Resize and scale (together, once), crop, mirror, then colour. Published source
    training: `size=(720, 1280)` for GTA5; `scale_range=(0.75, 1.25)`,
    `crop=(512, 960)` for SYNTHIA; both with `gray_probability=0.1`.

    Attributes:
        size: (height, width) before scaling; None keeps the image's own.
        scale_range: factor of that size, drawn uniformly.
        crop: (height, width) cut out at random, smaller images padded with black and
            255 by the whole deficit on both sides; None keeps the whole image.
        flip: mirror half of the images.
        jitter: strengths of brightness, contrast, saturation, hue.
        gray_probability: of losing all colour instead of the jitter.
        resample: of images; labels are always nearest.
    """

    size: Size | None = None
    scale_range: tuple[float, float] = (1.0, 1.0)
    crop: Size | None = None
    flip: bool = False
    jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    gray_probability: float = 0.0
    resample: Resample = "bicubic"

    def __call__(
        self, record: Record, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """The arrays of one record."""
        image, label = record["image"], _label(record)
        size = scaled(self.size or image.shape[:2], rng.uniform(*self.scale_range))
        image = image_ops.resize(image, size, self.resample)
        label = image_ops.resize(label, size, "nearest")
        if self.crop is not None:
            image = image_ops.pad(image, self.crop, 0)
            label = image_ops.pad(label, self.crop, IGNORE)
            top, left = (
                int(rng.integers(0, have - want, endpoint=True))
                for have, want in zip(label.shape, self.crop, strict=True)
            )
            box = (top, top + self.crop[0], left, left + self.crop[1])
            image, label = image_ops.crop(image, box), image_ops.crop(label, box)
        if self.flip and rng.random() < 0.5:
            image, label = image_ops.flip(image), image_ops.flip(label)
        image = np.ascontiguousarray(image)
        arrays = {"images": self._colour(image, rng), "labels": label}
        if "index" in record:
            arrays["index"] = np.array(record["index"], np.int32)
        return arrays

    def _colour(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        gray = rng.random() < self.gray_probability
        order, factors = draw_jitter(self.jitter, rng)
        if gray:
            return image_ops.grayscale(image)
        for operation in order:
            image = image_ops.JITTER[operation](image, factors[operation])
        return image


@dataclasses.dataclass(frozen=True, kw_only=True)
class DtstTrain(CandidatePaster):
    """Both views of one target image for DT-ST, the student's with objects pasted in.

    Gives `images` uint8[h,w,3] (strongly augmented crop after copy-paste),
    `full_images` uint8[H,W,3] (for the teacher, not augmented), the geometry that
    leads from one to the other: `rescale_size` int32[2] (height, width),
    `crop_origin` int32[2] (y1, x1), `flip` bool[]; `mix_labels` uint8[h,w], 255 where
    nothing was pasted, and `index` int32[], the example's position in its split.

    Attributes:
        full_size: (height, width) of the teacher's view; (768, 1536) published for 19
            classes, (640, 1280) for 16.
        crop_size: (height, width) of the student's; (512, 1024) and (480, 960).
        mix_probabilities: of `mix_classes`; None is uniform, as in the published
            runs.
        augment: the student's augmentation.
        gamma: exponent of a tone curve on the teacher's view alone, 1.0 for none.

    Raises:
        ConfigError: crop larger than the smallest scaled view; probabilities that do
            not fit the classes.
    """

    full_size: Size
    crop_size: Size
    mix_probabilities: Sequence[float] | None = None
    augment: AugmentSettings = _PUBLISHED
    gamma: float = 1.0

    def __post_init__(self):
        self.augment.check(self.full_size, self.crop_size)
        given = self.mix_probabilities
        if given is not None and len(given) != len(self.mix_classes):
            raise ConfigError(
                f"{len(given)} mix_probabilities for {len(self.mix_classes)} "
                "mix_classes; expected one for each."
            )

    def __call__(
        self, record: Record, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """The arrays of one record; it carries its `index`."""
        full = image_ops.resize(record["image"], self.full_size, "bilinear")
        decisions = draw_decisions(
            self.augment, self.full_size, rng, crop_size=self.crop_size
        )
        student = strong_augment(
            full,
            decisions,
            cutout_ratio=self.augment.cutout_ratio,
            denorm=self.augment.denorm,
        )
        student, mix_label = self.paste(
            student, rng, classes=self.mix_classes, weights=self.mix_probabilities
        )
        top, _, left, _ = decisions.crop
        return {
            "images": student,
            "full_images": image_ops.tone(full, self.gamma),
            "rescale_size": np.array(decisions.rescale_size, np.int32),
            "crop_origin": np.array([top, left], np.int32),
            "flip": np.array(decisions.flip),
            "mix_labels": mix_label,
            "index": np.array(record["index"], np.int32),
        }


def _label(record: Record) -> UInt8[np.ndarray, "h w"]:
    if "label" not in record:
        raise DataError(
            "a record without label in supervised training.",
            hint="Only source splits carry training labels.",
        )
    return record["label"]
