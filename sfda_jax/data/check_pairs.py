"""One image and its label looked through: what they hold, and what is amiss."""

import dataclasses
import pathlib
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image

from sfda_jax.data.image_files import FileFault, oddities, open_image, orientation
from sfda_jax.data.label_maps import UNMAPPED, as_ranges
from sfda_jax.data.wrong_labels import are_grey_colours
from sfda_jax.errors import DataError
from sfda_jax.types import IGNORE

_QUARTER_TURNS = (5, 6, 7, 8)  # EXIF orientations that swap width and height


def counted(number: int, what: str) -> str:
    """`1 image`, `24,904 images`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Remark:
    """Something that a check found.

    Attributes:
        kind: a word that groups remarks.
        text: one sentence, the file named in it.
        error: whether it must be mended before the dataset can be prepared.
        mend: what to do about it; empty where there is nothing to do.
        split: where it was found; empty for the folder as a whole.
    """

    kind: str
    text: str
    error: bool = True
    mend: str = ""
    split: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Examined:
    """What the files of one or more examples hold.

    Attributes:
        remarks: at most one error, any number of warnings.
        size: (height, width) of the upright image; None where it does not decode.
        content: checksum and length of the image file; None for a single colour.
        num_bytes: of both files.
        values: published label value → pixels of the whole label file.
        unknown: those of `values` that are in no label map.
        pixels: pixels per train id and example, the last column those ignored; None
            without a usable label.
    """

    remarks: tuple[Remark, ...] = ()
    size: tuple[int, int] | None = None
    content: tuple[int, int] | None = None
    num_bytes: int = 0
    values: Mapping[int, int] = dataclasses.field(default_factory=dict)
    unknown: tuple[int, ...] = ()
    pixels: Int64[np.ndarray, "e c"] | None = None


def examine(builder_class: Any, config: Any, pairs: Sequence[Any]) -> Examined:
    """What the image and the label of some examples hold.

    Args:
        builder_class: the dataset's, from `data_prep`.
        config: its configuration.
        pairs: examples of the same two files; they differ in their boxes.
    """
    found, image = _examine_image(pairs[0].image)
    if pairs[0].label is None:
        return found
    return _examine_label(builder_class, config, pairs, found, image)


def _examine_image(path: pathlib.Path) -> tuple[Examined, Image.Image | None]:
    try:
        data, image = open_image(path)
    except FileFault as fault:
        return Examined(remarks=(_remark(fault),)), None
    blank = _single_colour(image)
    found = Examined(
        remarks=_image_remarks(path, data, image, blank=blank),
        size=_upright(image),
        content=None if blank else (zlib.crc32(data), len(data)),
        num_bytes=len(data),
    )
    return found, image


def _examine_label(builder_class, config, pairs, found, image) -> Examined:
    """`found`, completed by what the label holds and whether it fits the image."""
    path = pairs[0].label
    try:
        label = builder_class.label_values(path)
        table = builder_class.label_table(pairs[0], config)
    except DataError as fault:
        return _with_remarks(found, _remark(fault))
    found = dataclasses.replace(
        found, values=_counted(label), num_bytes=found.num_bytes + path.stat().st_size
    )
    if fault := _values_fault(builder_class, found.values, table, path):
        return _with_remarks(found, fault, unknown=_unknown(found.values, table))
    if image is None:
        return found
    if fault := _size_fault(pairs, label.shape, image):
        return _with_remarks(found, fault)
    classes = builder_class.classes(config).num_classes
    pixels = [_pixels(label, found.values, table, p.box, classes) for p in pairs]
    bare = [p for p, row in zip(pairs, pixels, strict=True) if not row[:-1].any()]
    remarks = [
        Remark(
            kind="nothing labelled",
            text=f"{p.label}{f', part {p.box},' if p.box else ''} has no pixel with a "
            "class: all are ignored.",
            error=False,
        )
        for p in bare
    ]
    return _with_remarks(found, *remarks, pixels=np.stack(pixels))


def _remark(fault: DataError) -> Remark:
    if isinstance(fault, FileFault):
        return Remark(kind=fault.kind, text=fault.message, mend=fault.mend)
    return Remark(kind="label", text=fault.message, mend=fault.hint)


def _with_remarks(found: Examined, *remarks: Remark, **changes) -> Examined:
    return dataclasses.replace(found, remarks=(*found.remarks, *remarks), **changes)


def _single_colour(image: Image.Image) -> bool:
    """Whether all pixels are the same."""
    extrema = image.getextrema()
    bands = extrema if isinstance(extrema[0], tuple) else (extrema,)
    return all(low == high for low, high in bands)


def _upright(image: Image.Image) -> tuple[int, int]:
    turned = orientation(image) in _QUARTER_TURNS
    return (image.width, image.height) if turned else (image.height, image.width)


def _image_remarks(path, data, image, *, blank: bool) -> tuple[Remark, ...]:
    remarks = []
    if odd := oddities(data, image):
        remarks.append(
            Remark(
                kind="converted image", text=f"{path} {'; '.join(odd)}.", error=False
            )
        )
    if blank:
        remarks.append(
            Remark(kind="single colour", text=f"{path} is of one colour.", error=False)
        )
    return tuple(remarks)


def _counted(label: np.ndarray) -> dict[int, int]:
    """Value → pixels."""
    if label.min() >= 0 and label.max() < 2**16:
        counts = np.bincount(label.reshape(-1))
        return {int(v): int(counts[v]) for v in np.flatnonzero(counts)}
    values, counts = np.unique(label, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def _pixels(
    label: np.ndarray,
    values: Mapping[int, int],
    table: UInt8[np.ndarray, "256"],
    box: tuple[int, int, int, int] | None,
    num_classes: int,
) -> Int64[np.ndarray, " c"]:
    """Pixels per train id, the last entry those ignored, of a label or a part of it."""
    if box:
        top, left, height, width = box
        values = _counted(label[top : top + height, left : left + width])
    counts = np.zeros(num_classes + 1, np.int64)
    for value, number in values.items():
        train_id = int(table[value])
        counts[num_classes if train_id == IGNORE else train_id] += number
    return counts


def _size_fault(
    pairs: Sequence[Any], label: tuple[int, int], image: Image.Image
) -> Remark | None:
    """A label of another size than its image, or a part outside of both."""
    pair, (height, width) = pairs[0], _upright(image)
    if label == (height, width):
        for p in pairs:
            if p.box and (p.box[0] + p.box[2] > height or p.box[1] + p.box[3] > width):
                return Remark(
                    kind="size",
                    text=f"{p.image} is {width}×{height}: its part {p.box} (top, left, "
                    "height, width) lies outside.",
                    mend="Fetch the file again.",
                )
        return None
    text = (
        f"{pair.label} is {label[1]}×{label[0]}, its image {pair.image} is "
        f"{width}×{height}"
    )
    mend = "Replace or remove the pair."
    if label == (image.height, image.width):
        text += (
            f" once turned upright, as its EXIF orientation {orientation(image)} says"
        )
        mend = (
            "Turn the label like the image, or delete the image's EXIF orientation "
            "(exiftool -Orientation= FILE)."
        )
    return Remark(kind="size", text=f"{text}.", mend=mend)


def _unknown(
    values: Mapping[int, int], table: UInt8[np.ndarray, "256"]
) -> tuple[int, ...]:
    """The values that a label map does not list."""
    return tuple(v for v in values if not 0 <= v <= 255 or table[v] == UNMAPPED)


def _values_fault(
    builder_class: Any,
    values: Mapping[int, int],
    table: UInt8[np.ndarray, "256"],
    path: pathlib.Path,
) -> Remark | None:
    """Values of a label that its map does not list."""
    unknown = _unknown(values, table)
    if not unknown:
        return None
    few = ", ".join(f"{v} ({counted(values[v], 'pixel')})" for v in unknown[:5])
    more = f" and {len(unknown) - 5} others" if len(unknown) > 5 else ""
    share = sum(values[v] for v in unknown) / sum(values.values())
    text = (
        f"{path} holds {few}{more}: {100 * share:.2g} % of its pixels are not in the "
        f"label map (ids {as_ranges(np.flatnonzero(table != UNMAPPED))})."
    )
    mend = "Fetch the label as published, or mend or remove it."
    if are_grey_colours(np.array(list(values))):
        text += " They are class colours turned into grey."
        mend = builder_class.label_mend
    return Remark(kind="unknown value", text=text, mend=mend)
