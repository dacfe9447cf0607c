"""Exact uint8 image operations of the published augmentation.

Colour operations round as the published releases do, bit for bit; their
definitions stand in each docstring. Images are `uint8[H,W,3]` RGB.
"""

import math
from collections.abc import Callable
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Float32, Shaped, UInt8
from PIL import Image

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Per-channel statistics of images scaled to 0-1, RGB."""

Denorm = Literal["truncate", "round"]
Resample = Literal["nearest", "bilinear", "bicubic", "lanczos"]
ImageArray = UInt8[np.ndarray, "h w 3"]

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_LEVELS = np.arange(256, dtype=np.float32)


def _blend_levels(start: float, factor: float) -> np.ndarray:
    """uint8[256] of trunc(start + factor * (level - start)), in float32, clipped."""
    start, factor = np.float32(start), np.float32(factor)
    return np.clip(start + factor * (_LEVELS - start), 0, 255).astype(np.uint8)


def map_levels(
    image: ImageArray, levels: Shaped[np.ndarray, "256 3"]
) -> Shaped[np.ndarray, "h w 3"]:
    """Each byte replaced by its channel's entry of a table."""
    return cv2.LUT(image, levels[None])


def tone(image: ImageArray, gamma: float) -> ImageArray:
    """255 (v/255)^gamma, rounded: below 1 brightens dark images, 1 changes nothing."""
    if gamma == 1.0:
        return image
    levels = np.rint(255 * (np.arange(256) / 255) ** gamma).astype(np.uint8)
    return cv2.LUT(np.ascontiguousarray(image), levels)


def luma(image: ImageArray) -> UInt8[np.ndarray, "h w"]:
    """Grey level (19595 R + 38470 G + 7471 B + 32768) >> 16."""
    return np.asarray(Image.fromarray(image).convert("L"))


def grayscale(image: ImageArray) -> ImageArray:
    """The grey level in all three channels."""
    return cv2.cvtColor(luma(image), cv2.COLOR_GRAY2RGB)


def brightness(image: ImageArray, factor: float) -> ImageArray:
    """Blend of black (factor 0) and the image (factor 1)."""
    return cv2.LUT(image, _blend_levels(0.0, factor))


def contrast(image: ImageArray, factor: float) -> ImageArray:
    """Blend of the mean grey level, rounded half up, and the image."""
    mean = float(int(luma(image).mean() + 0.5))
    return cv2.LUT(image, _blend_levels(mean, factor))


def saturation(image: ImageArray, factor: float) -> ImageArray:
    """Blend of the grey image and the image."""
    colour = Image.fromarray(image)
    grey = colour.convert("L").convert("RGB")
    return np.asarray(Image.blend(grey, colour, factor))


def hue(image: ImageArray, factor: float) -> ImageArray:
    """Hue turned by int(255 * factor) of 256 levels, through 8-bit HSV.

    Args:
        image: uint8[H,W,3].
        factor: -0.5 to 0.5; 0 still rounds through HSV, as published.
    """
    hsv = Image.fromarray(image).convert("HSV")
    turned = (np.arange(256) + int(factor * 255)) % 256
    return np.asarray(hsv.point([*turned, *range(256), *range(256)]).convert("RGB"))


CONTRAST = 1
JITTER: tuple[Callable[[ImageArray, float], ImageArray], ...] = (
    brightness,
    contrast,
    saturation,
    hue,
)
"""Colour operations by the index that a jitter order speaks of.

All but `CONTRAST` change each pixel by itself.
"""


def blur5(image: ImageArray, sigma: float) -> ImageArray:
    """5x5 Gaussian blur, reflected border (edge not repeated), rounded half to even."""
    taps = np.exp(-0.5 * (np.arange(-2, 3) / sigma) ** 2)
    taps = (taps / taps.sum()).astype(np.float32)
    blurred = cv2.sepFilter2D(
        image, cv2.CV_32F, taps, taps, borderType=cv2.BORDER_REFLECT_101
    )
    return cv2.convertScaleAbs(blurred)


def resize(
    array: UInt8[np.ndarray, "..."],
    size: tuple[int, int],
    resample: Resample,
) -> UInt8[np.ndarray, "..."]:
    """Image or label map at another size; all but `nearest` antialias.

    Args:
        array: uint8[H,W,3] or uint8[H,W].
        size: (height, width) of the result.
        resample: `nearest` for label maps.
    """
    if array.shape[:2] == tuple(size):
        return array
    height, width = size
    resized = Image.fromarray(array).resize((width, height), _RESAMPLING[resample])
    return np.asarray(resized)


def rule(size: tuple[int, int], new_size: tuple[int, int]) -> Resample:
    """The filter that CBST resizes images with (cbst_crst.md, section 3.1).

    Lanczos if both sides shrink, bicubic if both grow, bilinear otherwise.
    """
    if all(new < old for old, new in zip(size, new_size, strict=True)):
        return "lanczos"
    if all(new > old for old, new in zip(size, new_size, strict=True)):
        return "bicubic"
    return "bilinear"


def resize_by_rule(
    image: ImageArray, size: tuple[int, int]
) -> UInt8[np.ndarray, "new_h new_w 3"]:
    """Image at another size, by the filter of `rule`."""
    return resize(image, size, rule(image.shape[:2], size))


def resize_opencv(
    image: ImageArray, size: tuple[int, int] | None = None, *, scale: float = 1.0
) -> UInt8[np.ndarray, "new_h new_w 3"]:
    """Image at another size, bilinear as OpenCV has it: nothing antialiases.

    Args:
        image: uint8[H,W,3].
        size: (height, width) of the result; None multiplies the image's by `scale`,
            rounded half to even.
        scale: then pixels lie exactly this far apart, whatever the rounding.
    """
    if size is not None:
        return cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    if scale == 1.0:
        return image
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)


def reach(
    size: tuple[int, int], new_size: tuple[int, int], box: tuple[int, int, int, int]
) -> tuple[int, int, int, int]:
    """The part (y1, y2, x1, x2) of an image that a crop after resizing depends on.

    Args:
        size: (height, width) of the image.
        new_size: what it is resized to, bicubic or a narrower filter.
        box: (y1, y2, x1, x2) of the crop in the resized image.
    """
    part = []
    for axis, (have, want) in enumerate(zip(size, new_size, strict=True)):
        scale = have / want
        support = 2 * max(scale, 1.0) + 1  # a pixel more than the filter's taps
        first, last = box[2 * axis] + 0.5, box[2 * axis + 1] - 0.5
        part.append(max(0, math.floor(first * scale - support)))
        part.append(min(have, math.ceil(last * scale + support)))
    return tuple(part)


def resize_part(
    part: UInt8[np.ndarray, "part_h part_w 3"],
    at: tuple[int, int, int, int],
    size: tuple[int, int],
    *,
    new_size: tuple[int, int],
    box: tuple[int, int, int, int],
) -> UInt8[np.ndarray, "crop_h crop_w 3"]:
    """A crop of a resized image (bicubic), from the part of the image that it needs.

    Equals `crop(resize(image, new_size, "bicubic"), box)` byte for byte: what else the
    image holds cannot be seen in the crop, so it may as well be black.

    Args:
        part: the image within `at`.
        at: (y1, y2, x1, x2), what `reach` gave.
        size: (height, width) of the whole image.
        new_size: of the whole image, resized.
        box: (y1, y2, x1, x2) of the crop in the resized image.
    """
    y1, _, x1, _ = at
    top, bottom, left, right = box
    canvas = Image.new("RGB", size[::-1])
    canvas.paste(Image.fromarray(part), (x1, y1))
    resized = canvas.resize(new_size[::-1], Image.Resampling.BICUBIC)
    return np.asarray(resized.crop((left, top, right, bottom)))


def crop(
    array: UInt8[np.ndarray, "..."], box: tuple[int, int, int, int]
) -> UInt8[np.ndarray, "..."]:
    """View of rows y1 to y2 and columns x1 to x2 of an image or label map.

    Args:
        array: uint8[H,W,...].
        box: (y1, y2, x1, x2).
    """
    y1, y2, x1, x2 = box
    return array[y1:y2, x1:x2]


def crop_filled(
    array: UInt8[np.ndarray, "..."],
    box: tuple[int, int, int, int],
    fill: int | tuple[int, ...],
) -> UInt8[np.ndarray, "..."]:
    """Rows y1 to y2 and columns x1 to x2, `fill` where the box leaves the image.

    Args:
        array: uint8[H,W,...].
        box: (y1, y2, x1, x2); may lie partly or wholly outside.
        fill: value or colour.
    """
    y1, y2, x1, x2 = box
    height, width = array.shape[:2]
    top, bottom = max(y1, 0), min(y2, height)
    left, right = max(x1, 0), min(x2, width)
    if (top, bottom, left, right) == box:
        return array[y1:y2, x1:x2]
    out = np.empty((y2 - y1, x2 - x1, *array.shape[2:]), np.uint8)
    out[:] = fill
    if top < bottom and left < right:
        out[top - y1 : bottom - y1, left - x1 : right - x1] = array[
            top:bottom, left:right
        ]
    return out


def flip(array: UInt8[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    """View of an image or label map mirrored left to right."""
    return array[:, ::-1]


def pad(
    array: UInt8[np.ndarray, "..."], size: tuple[int, int], fill: int
) -> UInt8[np.ndarray, "..."]:
    """Image or label map at least `size` large, padded as published.

    A side that is short of its size grows by the whole deficit at *both* ends.
    """
    rows, columns = (
        max(want - have, 0) for want, have in zip(size, array.shape, strict=False)
    )
    if not rows and not columns:
        return array
    width = [(rows, rows), (columns, columns)] + [(0, 0)] * (array.ndim - 2)
    return np.pad(array, width, constant_values=fill)


def _normalised_levels(dtype: type) -> np.ndarray:
    levels = np.arange(256, dtype=dtype)[:, None] / dtype(255)
    return ((levels - np.array(MEAN, dtype)) / np.array(STD, dtype)).astype(np.float32)


_NORMALISED = {
    "double": _normalised_levels(np.float64),
    "single": _normalised_levels(np.float32),
}


def normalise(
    image: ImageArray, precision: Literal["double", "single"] = "double"
) -> Float32[np.ndarray, "h w 3"]:
    """(image / 255 - MEAN) / STD.

    Args:
        image: uint8[H,W,3].
        precision: `double` rounds once, at the end, as the published teacher images
            do; `single` rounds each operation to float32, as the first
            normalisation of the student's images does.
    """
    return map_levels(image, _NORMALISED[precision])


def normalise_float(
    image: Float32[np.ndarray, "h w 3"],
) -> Float32[np.ndarray, "h w 3"]:
    """(x / 255 - MEAN) / STD of an image, 0 to 255, that is not rounded to 8 bits."""
    mean, std = np.array(MEAN, np.float32), np.array(STD, np.float32)
    return (image / np.float32(255) - mean) / std


def denormalise_float(
    normalised: Float32[np.ndarray, "h w 3"],
) -> Float32[np.ndarray, "h w 3"]:
    """255 * (x * STD + MEAN), each operation rounded to float32 as published."""
    scaled = (normalised * np.array(STD)).astype(np.float32)
    shifted = (scaled + np.array(MEAN)).astype(np.float32)
    return shifted * np.float32(255)


def denormalise(
    normalised: Float32[np.ndarray, "h w 3"], mode: Denorm = "truncate"
) -> ImageArray:
    """Image of 8 bits back from its normalised form.

    Args:
        normalised: float32[H,W,3].
        mode: `truncate` is the published quirk: about a tenth of the bytes come out
            one lower than they went in. `round` gives every byte back.
    """
    values = denormalise_float(normalised)
    if mode == "round":
        values = np.rint(values)
    return np.clip(values, 0, 255).astype(np.uint8)


def denormalised_levels(mode: Denorm) -> UInt8[np.ndarray, "256 3"]:
    """What each level becomes through normalise (single precision) and denormalise."""
    return denormalise(_NORMALISED["single"][:, None, :], mode)[:, 0]


def denormalised_zero(mode: Denorm) -> UInt8[np.ndarray, "3"]:
    """The colour of a hole in the normalised image, about the mean colour."""
    return denormalise(np.zeros((1, 1, 3), np.float32), mode)[0, 0]
