"""A contact sheet of a checked dataset: images and labels that show every class."""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from sfda_jax.data.check import CheckReport
from sfda_jax.data.check_counts import Example, SplitReport
from sfda_jax.data.check_pairs import counted
from sfda_jax.errors import DataError
from sfda_jax.report.palette import overlay
from sfda_jax.report.panels import (
    FAINT,
    INK,
    MARGIN,
    PAPER,
    class_legend,
    text_font,
)
from sfda_jax.tasks import ClassSpace

_CELL = 300  # pixels, width of an image or an overlay
_DUOS = 3  # images with their overlays side by side
_GAP, _INNER = 18, 2  # between duos, between image and overlay
_CAPTION, _CHIP = 22, 11
_MARKED = 3  # classes of an example that are outlined: the rarest
_SMALL = 0.15  # of the image: larger areas need no outline
_WIDTH = 2 * MARGIN + _DUOS * (2 * _CELL + _INNER) + (_DUOS - 1) * _GAP


def contact_sheet(report: CheckReport) -> UInt8[np.ndarray, "h w 3"]:
    """One picture of a few examples of every split, image | overlay.

    The examples of a labelled split show every class that occurs in it, beginning with
    the rarest; the caption says for which classes an example was chosen, and the
    largest area of the three rarest of them is outlined.

    Args:
        report: from `check_dataset`.
    """
    place = report.place
    variant = f", variant {place.variant}" if place.variant else ""
    blocks = [
        _line(f"{place.dataset} ({report.classes.name}{variant})", size=22),
        class_legend(report.classes, _WIDTH),
    ]
    for split in report.splits:
        blocks += _split(split, report.classes)
    height = 2 * MARGIN + sum(block.height for block in blocks)
    sheet, y = Image.new("RGB", (_WIDTH, height), PAPER), MARGIN
    for block in blocks:
        sheet.paste(block, (0, y))
        y += block.height
    return np.array(sheet)


def _line(text: str, *, size: int, color: tuple[int, int, int] = INK) -> Image.Image:
    line = Image.new("RGB", (_WIDTH, round(size * 1.7)), PAPER)
    ImageDraw.Draw(line).text((MARGIN, 2), text, color, font=text_font(size))
    return line


def _split(split: SplitReport, classes: ClassSpace) -> list[Image.Image]:
    labels = "" if split.labelled else ", no labels"
    title = f"{split.name}: {counted(split.found, 'example')}{labels}"
    blocks = [Image.new("RGB", (_WIDTH, 14), PAPER), _line(title, size=18)]
    ImageDraw.Draw(blocks[0]).line((MARGIN, 6, _WIDTH - MARGIN, 6), (214, 217, 222))
    found = (_picture(example, classes) for example in split.examples)
    pictures = [picture for picture in found if picture is not None]
    per_line = _DUOS if split.labelled else 2 * _DUOS
    for start in range(0, len(pictures), per_line):
        blocks.append(_row(pictures[start : start + per_line], per_line))
    if not pictures:
        blocks.append(_line("nothing to show", size=14, color=FAINT))
    return blocks


def _row(pictures: Sequence[Image.Image], per_line: int) -> Image.Image:
    row = Image.new("RGB", (_WIDTH, max(p.height for p in pictures)), PAPER)
    step = (_WIDTH - 2 * MARGIN + _GAP) // per_line
    for index, picture in enumerate(pictures):
        row.paste(picture, (MARGIN + index * step, 0))
    return row


def _picture(example: Example, classes: ClassSpace) -> Image.Image | None:
    """Image, overlay and caption; None where a file was damaged since the check."""
    try:
        record = example.load()
    except DataError:
        return None
    image = record["image"]
    height = max(1, round(image.shape[0] * _CELL / image.shape[1]))
    small = _shrunk(image, height)
    labelled = "label" in record
    width = 2 * _CELL + _INNER if labelled else _CELL
    lines = 2 if labelled else 1
    picture = Image.new("RGB", (width, height + lines * _CAPTION + 6), PAPER)
    picture.paste(Image.fromarray(small), (0, 0))
    if labelled:
        nearest = cv2.INTER_NEAREST_EXACT
        label = cv2.resize(record["label"], (_CELL, height), interpolation=nearest)
        beside = Image.fromarray(overlay(small, label, classes))
        for train_id in example.shows[:_MARKED]:
            color = tuple(classes.palette[train_id].tolist())
            _outline(beside, record["label"] == train_id, color)
        picture.paste(beside, (_CELL + _INNER, 0))
    draw = ImageDraw.Draw(picture)
    font = text_font(14)
    draw.text((0, height + 2), _shortened(example.id, font, width), INK, font=font)
    _chips(draw, height + 2 + _CAPTION, example.shows, classes, width=width)
    return picture


def _shrunk(image: np.ndarray, height: int) -> np.ndarray:
    method = cv2.INTER_AREA if image.shape[1] > _CELL else cv2.INTER_LINEAR
    return cv2.resize(image, (_CELL, height), interpolation=method)


def _outline(
    picture: Image.Image, mask: np.ndarray, color: tuple[int, int, int]
) -> None:
    """Draws a frame around the largest connected area of a class, where it is small."""
    _, _, boxes, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    if len(boxes) < 2:
        return
    left, top, width, height, _ = boxes[1 + np.argmax(boxes[1:, cv2.CC_STAT_AREA])]
    if width * height > _SMALL * mask.size:
        return
    x, y = picture.width / mask.shape[1], picture.height / mask.shape[0]
    box = [left * x - 4, top * y - 4, (left + width) * x + 3, (top + height) * y + 3]
    limits = (picture.width - 1, picture.height - 1) * 2
    box = [float(np.clip(b, 0, high)) for b, high in zip(box, limits, strict=True)]
    draw = ImageDraw.Draw(picture)
    draw.rectangle(box, outline=color, width=3)
    draw.rectangle(box, outline=(255, 255, 255))


def _shortened(text: str, font, width: int) -> str:
    """The text, its middle left out where it is too long."""
    while font.getlength(text) > width and len(text) > 8:
        half = len(text) // 2
        text = f"{text[: half - 2].rstrip('…')}…{text[half + 2 :].lstrip('…')}"
    return text


def _chips(
    draw: ImageDraw.ImageDraw,
    y: int,
    train_ids: Sequence[int],
    classes: ClassSpace,
    *,
    width: int,
) -> None:
    """Colours and names of classes in one line, as many as fit."""
    font, x = text_font(13), 0
    for index, train_id in enumerate(train_ids):
        name = classes.names[train_id]
        wide = _CHIP + 5 + font.getlength(name) + 12
        last = index == len(train_ids) - 1
        if x + wide + (0 if last else 30) > width:
            draw.text((x, y), f"+{len(train_ids) - index}", FAINT, font=font)
            return
        color = tuple(classes.palette[train_id].tolist())
        box = (x, y + 3, x + _CHIP, y + 3 + _CHIP)
        draw.rectangle(box, fill=color, outline=(190, 194, 200))
        draw.text((x + _CHIP + 5, y), name, FAINT, font=font)
        x += wide
