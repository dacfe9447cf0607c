"""Panels: what the network saw, what is true, what it said before and after."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from sfda_jax.report.palette import IGNORE_COLOR, colorize, colorize_confidence
from sfda_jax.tasks import ClassSpace
from sfda_jax.types import IGNORE

TITLES: Mapping[str, str] = {
    "image": "Image",
    "ground_truth": "Ground truth",
    "before": "Before adaptation",
    "after": "After adaptation",
    "pseudo_label": "Pseudo-label",
    "changes": "Changes since the last round",
    "confidence": "Confidence",
}
"""Column titles of the usual keys, in the usual order."""

CHANGES: Mapping[str, tuple[int, int, int]] = {
    "same label": (226, 228, 232),
    "new label": (38, 140, 84),
    "other class": (214, 122, 22),
    "label lost": (176, 52, 60),
}
"""What can become of a pixel's pseudo-label from one round to the next → its colour."""

PAPER, INK, FAINT = (255, 255, 255), (32, 36, 42), (108, 114, 124)
MARGIN = 16
_GAP, _TITLE, _CAPTION, _BAR = 10, 24, 28, 26


def compose_panel(
    rows: Sequence[Mapping[str, Any]],
    classes: ClassSpace,
    *,
    titles: Mapping[str, str] = TITLES,
    per_line: int = 3,
    cell_width: int = 400,
    notes: Mapping[str, tuple[int, int, int]] = MappingProxyType({}),
) -> UInt8[np.ndarray, "h w 3"]:
    """One picture of all rows: titled cells, captions, class legend, colour bar.

    The kind of an array follows from its type: `uint8[h,w,3]` is an image, integers
    `[h,w]` are train ids (255 = none), floats `[h,w]` a confidence in [0, 1].

    Args:
        rows: one mapping per example, column key → array; the key `id` holds its
            caption instead. A row may lack columns. Columns follow `titles`, then
            order of appearance.
        classes: names and palette.
        titles: column key → title.
        per_line: cells side by side before a row goes on below.
        cell_width: pixels; heights keep each image's proportions.
        notes: a line of further names and colours, below the classes.
    """
    keys = list(dict.fromkeys(k for row in rows for k in row if k != "id"))
    columns = [k for k in titles if k in keys] + [k for k in keys if k not in titles]
    per_line = min(per_line, len(columns))
    width = 2 * MARGIN + per_line * (cell_width + _GAP) - _GAP
    blocks = []
    for row in rows:
        if row.get("id"):
            blocks.append(_text_line(str(row["id"]), width))
        present = [key for key in columns if key in row]
        for start in range(0, len(present), per_line):
            line = [
                (
                    titles.get(key, key.replace("_", " ").capitalize()),
                    _cell(row[key], classes, cell_width),
                )
                for key in present[start : start + per_line]
            ]
            blocks.append(_cell_line(line, width, cell_width))
    blocks.append(class_legend(classes, width))
    if notes:
        blocks.append(_legend(list(notes.items()), width))
    if any(_is_confidence(value) for row in rows for value in row.values()):
        blocks.append(_confidence_bar(width))
    sheet = Image.new("RGB", (width, 2 * MARGIN + sum(b.height for b in blocks)), PAPER)
    y = MARGIN
    for block in blocks:
        sheet.paste(block, (0, y))
        y += block.height
    return np.array(sheet)


def _text_line(text: str, width: int) -> Image.Image:
    line = Image.new("RGB", (width, _CAPTION), PAPER)
    ImageDraw.Draw(line).text((MARGIN, 4), text, FAINT, font=text_font(15))
    return line


def _cell_line(
    cells: Sequence[tuple[str, np.ndarray]], width: int, cell_width: int
) -> Image.Image:
    height = _TITLE + max(cell.shape[0] for _, cell in cells) + _GAP
    line = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(line)
    for index, (title, cell) in enumerate(cells):
        x = MARGIN + index * (cell_width + _GAP)
        draw.text((x, 1), title, INK, font=text_font(16))
        line.paste(Image.fromarray(cell), (x, _TITLE))
    return line


def _is_confidence(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind == "f"


def _cell(array: np.ndarray, classes: ClassSpace, width: int) -> np.ndarray:
    height = max(1, round(array.shape[0] * width / array.shape[1]))
    if array.ndim == 3:
        shrinks = array.shape[1] > width
        method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        return cv2.resize(array, (width, height), interpolation=method)
    if _is_confidence(array):
        colors = colorize_confidence(array)
    else:
        colors = colorize(array, classes)
    return cv2.resize(colors, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)


def text_font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """The typeface of all pictures."""
    return ImageFont.load_default(size)


def class_legend(classes: ClassSpace, width: int) -> Image.Image:
    """Swatches with class names, as many lines as they need."""
    colors = map(tuple, classes.palette.tolist())
    entries = [*zip(classes.names, colors, strict=True), ("no label", IGNORE_COLOR)]
    return _legend(entries, width)


def label_changes(
    labels: UInt8[np.ndarray, "h w"], before: UInt8[np.ndarray, "_h _w"]
) -> UInt8[np.ndarray, "h w 3"]:
    """A picture of how pseudo-labels differ from earlier ones, in `CHANGES` colours.

    Args:
        labels: train ids, 255 = none.
        before: the same of an earlier round; resized (nearest) where sizes differ.
    """
    if before.shape != labels.shape:
        size = (labels.shape[1], labels.shape[0])
        before = cv2.resize(before, size, interpolation=cv2.INTER_NEAREST_EXACT)
    now, then = labels != IGNORE, before != IGNORE
    which = np.select(
        [now & then & (labels == before), now & ~then, now & then, then], range(4), 4
    )
    return np.array([*CHANGES.values(), IGNORE_COLOR], np.uint8)[which]


def _legend(
    entries: Sequence[tuple[str, tuple[int, int, int]]], width: int
) -> Image.Image:
    """Swatches with names, as many lines as they need."""
    font, line, swatch = text_font(15), 25, 15
    places, x, y = [], MARGIN, 8
    for name, color in entries:
        wide = swatch + 7 + round(font.getlength(name)) + 20
        if x > MARGIN and x + wide > width - MARGIN:
            x, y = MARGIN, y + line
        places.append((x, y, name, color))
        x += wide
    legend = Image.new("RGB", (width, y + line), PAPER)
    draw = ImageDraw.Draw(legend)
    for x, y, name, color in places:
        box = (x, y + 1, x + swatch, y + 1 + swatch)
        draw.rectangle(box, fill=color, outline=(190, 194, 200))
        draw.text((x + swatch + 7, y - 1), name, INK, font=font)
    return legend


def _confidence_bar(width: int) -> Image.Image:
    line, font, label = (
        Image.new("RGB", (width, _BAR), PAPER),
        text_font(15),
        "Confidence",
    )
    draw = ImageDraw.Draw(line)
    ramp = np.broadcast_to(np.linspace(0, 1, 180), (14, 180))
    draw.text((MARGIN, 4), label + "   0", INK, font=font)
    x = MARGIN + round(font.getlength(label + "   0")) + 8
    line.paste(Image.fromarray(colorize_confidence(ramp)), (x, 7))
    draw.text((x + 188, 4), "1", INK, font=font)
    return line
