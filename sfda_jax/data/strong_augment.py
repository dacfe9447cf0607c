"""The student's strong augmentation of DT-ST: decisions drawn, then applied purely."""

import dataclasses

import numpy as np
from jaxtyping import Float32, UInt8

from sfda_jax.data import image_ops
from sfda_jax.data.image_ops import Denorm, ImageArray
from sfda_jax.data.interpolation import torch_nearest
from sfda_jax.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentSettings:
    """How strongly target images are augmented; defaults of DT-ST with 19 classes.

    Attributes:
        scale_range: factors of the full view's size, drawn uniformly.
        blur_probability: of a 5x5 Gaussian blur.
        blur_sigma: range of its standard deviation.
        colour_probability: of colour jitter; the image turns grey otherwise.
        jitter: strengths of brightness, contrast, saturation and hue; 0 leaves that
            operation out.
        flip_probability: of mirroring left to right.
        cutout_probability: of blanking cells (0 in SND and Stable-ST).
        cutout_ratio: share of the cells that are blanked.
        cutout_cell: side of a cell, pixels.
        gamma: range of a tone curve's exponent, before all else; beside the published
            augmentation, off at (1, 1).
        denorm: `truncate` reproduces the published loss of one grey level in a tenth
            of the bytes, `round` does not.
    """

    scale_range: tuple[float, float] = (0.75, 1.25)
    blur_probability: float = 0.5
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    colour_probability: float = 0.9
    jitter: tuple[float, float, float, float] = (0.5, 0.5, 0.5, 0.2)
    flip_probability: float = 0.5
    cutout_probability: float = 0.25
    cutout_ratio: float = 0.25
    cutout_cell: int = 32
    gamma: tuple[float, float] = (1.0, 1.0)
    denorm: Denorm = "truncate"

    def check(self, image_size: tuple[int, int], crop_size: tuple[int, int]) -> None:
        """Refuses a crop that the smallest scaled image cannot hold.

        The published loader pads such images but reports geometry without the
        padding, so that student and teacher would no longer see the same pixels.

        Raises:
            ConfigError: naming both sizes.
        """
        smallest = scaled(image_size, min(self.scale_range))
        if any(have < want for have, want in zip(smallest, crop_size, strict=True)):
            raise ConfigError(
                f"crop_size {tuple(crop_size)} is larger than the full view "
                f"{tuple(image_size)} at scale {min(self.scale_range)}, which is "
                f"{smallest}.",
                hint="Lower crop_size, or raise full_size or scale_range.",
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentDecisions:
    """Everything random about one augmented image.

    Attributes:
        blur_sigma: standard deviation of the blur, None for no blur.
        gray: replace the colours by the grey level.
        jitter_order: colour operations in order (0 brightness, 1 contrast,
            2 saturation, 3 hue); empty for none.
        jitter_factors: the factor of each of the four.
        rescale_size: (height, width) of the whole image before the crop.
        crop: (y1, y2, x1, x2) in the rescaled image.
        flip: mirror left to right, after the crop.
        cutout_grid: U(0,1) draw of each cell `[h // cell, w // cell]`, None for no
            cutout.
        gamma: exponent of the tone curve.
    """

    blur_sigma: float | None
    gray: bool
    jitter_order: tuple[int, ...]
    jitter_factors: tuple[float, float, float, float]
    rescale_size: tuple[int, int]
    crop: tuple[int, int, int, int]
    flip: bool
    cutout_grid: np.ndarray | None
    gamma: float = 1.0


def scaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """(height, width) times a factor, rounded down."""
    return int(size[0] * scale), int(size[1] * scale)


def draw_jitter(
    strengths: tuple[float, float, float, float], rng: np.random.Generator
) -> tuple[tuple[int, ...], tuple[float, float, float, float]]:
    """`(order, factors)` of a colour jitter; see `AugmentDecisions`.

    Args:
        strengths: of brightness, contrast and saturation (factors 1 - s to 1 + s) and
            hue (-s to s); an operation of strength 0 is left out of the order.
        rng: the same draws are made whatever the strengths.
    """
    order = [i for i in rng.permutation(4).tolist() if strengths[i] > 0]
    blends = [rng.uniform(max(0.0, 1 - s), 1 + s) for s in strengths[:3]]
    return tuple(order), (*blends, rng.uniform(-strengths[3], strengths[3]))


def draw_decisions(
    settings: AugmentSettings,
    image_size: tuple[int, int],
    rng: np.random.Generator,
    *,
    crop_size: tuple[int, int],
) -> AugmentDecisions:
    """Decisions for one image of `image_size`; sizes are (height, width)."""
    blurred = rng.random() < settings.blur_probability
    sigma = rng.uniform(*settings.blur_sigma)
    coloured = rng.random() < settings.colour_probability
    order, factors = draw_jitter(settings.jitter, rng)
    low, high = settings.scale_range
    rescale_size = scaled(image_size, low + (high - low) * rng.random())
    top, left = (
        int(rng.integers(0, have - want, endpoint=True)) if have > want else 0
        for have, want in zip(rescale_size, crop_size, strict=True)
    )
    height, width = crop_size
    cutout = rng.random() < settings.cutout_probability
    cells = (height // settings.cutout_cell, width // settings.cutout_cell)
    return AugmentDecisions(
        blur_sigma=sigma if blurred else None,
        gray=not coloured,
        jitter_order=order if coloured else (),
        jitter_factors=factors,
        rescale_size=rescale_size,
        crop=(top, top + height, left, left + width),
        flip=bool(rng.random() < settings.flip_probability),
        cutout_grid=rng.random(cells, np.float32) if cutout and all(cells) else None,
        gamma=rng.uniform(*settings.gamma),
    )


def augment_bytes(
    image: ImageArray, decisions: AugmentDecisions
) -> UInt8[np.ndarray, "crop_h crop_w 3"]:
    """Tone, blur, colour, scale, crop and flip, before the first normalisation."""
    image = image_ops.tone(image, decisions.gamma)
    if decisions.blur_sigma is not None:
        image = image_ops.blur5(image, decisions.blur_sigma)
    order, size = decisions.jitter_order, image.shape[:2]
    # Contrast looks at the whole image; what follows it, only at what the crop needs.
    whole = order.index(image_ops.CONTRAST) + 1 if image_ops.CONTRAST in order else 0
    image = _jittered(image, order[:whole], decisions)
    part = image_ops.reach(size, decisions.rescale_size, decisions.crop)
    image = np.ascontiguousarray(image_ops.crop(image, part))
    image = _jittered(image, order[whole:], decisions)
    if decisions.gray:
        image = image_ops.grayscale(image)
    image = image_ops.resize_part(
        image, part, size, new_size=decisions.rescale_size, box=decisions.crop
    )
    if decisions.flip:
        image = image_ops.flip(image)
    return np.ascontiguousarray(image)


def _jittered(
    image: ImageArray, order: tuple[int, ...], decisions: AugmentDecisions
) -> ImageArray:
    for operation in order:
        factor = decisions.jitter_factors[operation]
        image = image_ops.JITTER[operation](image, factor)
    return image


def cutout_keep(
    grid: Float32[np.ndarray, "rows columns"], size: tuple[int, int], ratio: float
) -> UInt8[np.ndarray, "h w"]:
    """1 where a pixel of an image of `size` stays, 0 in the holes.

    Args:
        grid: uniform draw of each cell; a cell at or below `ratio` is a hole.
        size: (height, width).
        ratio: expected share of holes.
    """
    keep = (grid > ratio).astype(np.uint8)
    for axis, (have, want) in enumerate(zip(keep.shape, size, strict=True)):
        keep = keep.take(torch_nearest(have, want), axis=axis)
    return keep


def strong_augment_normalised(
    image: ImageArray, decisions: AugmentDecisions, *, cutout_ratio: float = 0.25
) -> Float32[np.ndarray, "crop_h crop_w 3"]:
    """Normalised student image, holes at 0 (DT-ST, Sec. 3.1; chain of the release)."""
    crop = augment_bytes(image, decisions)
    normalised = image_ops.normalise(crop, "single")
    if decisions.cutout_grid is None:
        return normalised
    keep = cutout_keep(decisions.cutout_grid, crop.shape[:2], cutout_ratio)
    return normalised * keep[:, :, None]


def strong_augment(
    image: ImageArray,
    decisions: AugmentDecisions,
    *,
    cutout_ratio: float = 0.25,
    denorm: Denorm = "truncate",
) -> UInt8[np.ndarray, "crop_h crop_w 3"]:
    """Student image in 8 bits: the normalised one, de-normalised.

    Equals `denormalise(strong_augment_normalised(...), denorm)`; both steps act on
    each byte alone, so one table does the work of both.

    Args:
        image: the full view, uint8[H,W,3].
        decisions: from `draw_decisions`, or recorded.
        cutout_ratio: cells whose draw is at or below become holes.
        denorm: see `AugmentSettings`.
    """
    crop = augment_bytes(image, decisions)
    crop = image_ops.map_levels(crop, image_ops.denormalised_levels(denorm))
    if decisions.cutout_grid is not None:
        keep = cutout_keep(decisions.cutout_grid, crop.shape[:2], cutout_ratio)
        crop[keep == 0] = image_ops.denormalised_zero(denorm)
    return crop
