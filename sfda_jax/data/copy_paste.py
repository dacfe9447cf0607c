"""Copy-paste of stable candidate objects into a student's image (DT-ST, Sec. 3.3)."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import cv2
import numpy as np
from jaxtyping import UInt8

from sfda_jax.data.sampling import MIN_CLASS_PIXELS
from sfda_jax.types import IGNORE, RandomAccess

MIN_COMPONENT_PIXELS = 20
"""Smaller connected components of a candidate mask are left out."""

MIX_CLASSES_19 = (4, 5, 6, 7, 12, 16, 17, 18)
MIX_CLASSES_16 = (3, 5, 6, 7, 11, 14, 15)
"""Classes that are pasted, in the spaces of 19 and 16 classes."""

COMPANIONS_19: Mapping[int, tuple[int, ...]] = {
    5: (6, 7),
    6: (5,),
    7: (5,),
    12: (17, 18),
    17: (12,),
    18: (12,),
}
COMPANIONS_16: Mapping[int, tuple[int, ...]] = {
    5: (6, 7),
    6: (5,),
    7: (5,),
    11: (14, 15),
    14: (11,),
    15: (11,),
}
"""Classes pasted along with a class: a rider and its bicycle, a pole and its sign."""

_PLACEMENT_TRIES = 99
_CANDIDATE_TRIES = 100

Box = tuple[int, int, int, int]
"""Rows r0 to r1 and columns c0 to c1, as (r0, r1, c0, c1)."""


@runtime_checkable
class Draws(Protocol):
    """The random numbers of the mixer, in the order it asks for them."""

    def uniform(self) -> float:
        """U(0,1): the scale of one component."""

    def randint(self, low: int, high: int) -> int:
        """Integer from `low` to `high`, both included: a row, then a column."""

    def choice(self, boxes: Sequence[Box]) -> Box:
        """One box, uniformly: what the next component is placed into."""


@dataclasses.dataclass(frozen=True)
class RngDraws:
    """Draws from a NumPy generator."""

    rng: np.random.Generator

    def uniform(self) -> float:
        """U(0,1)."""
        return self.rng.random()

    def randint(self, low: int, high: int) -> int:
        """Integer from `low` to `high`, both included."""
        return int(self.rng.integers(low, high, endpoint=True))

    def choice(self, boxes: Sequence[Box]) -> Box:
        """One box, uniformly."""
        return boxes[self.rng.integers(len(boxes))]


@dataclasses.dataclass
class _Canvas:
    """What has been pasted so far."""

    image: np.ndarray
    labels: np.ndarray
    filled: np.ndarray
    target_boxes: list[Box]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CandidatePaster:
    """Base of what pastes objects of the training split's candidates into an image.

    Attributes:
        images: the training split, read for the pasted objects.
        candidates: id → candidate mask, train ids and 255, at the image's resolution
            or a fraction of it.
        class_files: class → (position, id) of the images whose mask holds it; nothing
            is pasted where all are empty.
        mix_classes: classes to paste.
        companions: class → classes pasted along with it.
        paste_scale_min: least enlargement of a pasted object.
        paste_scale_range: added to it times U(0,1).
        min_class_pixels: a candidate with fewer pixels of the class is drawn again.
        min_component_pixels: smaller pieces of an object are left out.
    """

    images: RandomAccess
    candidates: Callable[[str], np.ndarray]
    class_files: Mapping[int, Sequence[tuple[int, str]]]
    mix_classes: Sequence[int]
    companions: Mapping[int, tuple[int, ...]]
    paste_scale_min: float = 1.0
    paste_scale_range: float = 1.5
    min_class_pixels: int = MIN_CLASS_PIXELS
    min_component_pixels: int = MIN_COMPONENT_PIXELS

    def paste(
        self,
        image: UInt8[np.ndarray, "h w 3"],
        rng: np.random.Generator,
        *,
        classes: Sequence[int],
        weights: Sequence[float] | None = None,
    ) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"]]:
        """The image with one candidate's objects, and their labels, else 255.

        Args:
            image: left unchanged.
            rng: source of randomness.
            classes: to draw from; one without files is never drawn.
            weights: of `classes`, not negative; need not add up to 1; None is uniform.
        """
        chosen = self._candidate(rng, classes, weights)
        if chosen is None:
            return image, np.full(image.shape[:2], IGNORE, np.uint8)
        target_class, candidate, mask = chosen
        return copy_paste(
            image,
            candidate,
            mask,
            target_class,
            companions=self.companions,
            draws=RngDraws(rng),
            scale_min=self.paste_scale_min,
            scale_range=self.paste_scale_range,
            min_component_pixels=self.min_component_pixels,
        )

    def _candidate(
        self,
        rng: np.random.Generator,
        classes: Sequence[int],
        weights: Sequence[float] | None,
    ) -> tuple[int, np.ndarray, np.ndarray] | None:
        """(class, image, mask) of a candidate to paste; None where there is none.

        Class and image are drawn again until the mask holds enough of the class; the
        bound of tries only matters for masks that do not match `class_files`.
        """
        filled = [bool(self.class_files.get(c)) for c in classes]
        weights = np.where(filled, 1.0 if weights is None else weights, 0.0)
        if weights.sum() <= 0:
            return None
        probs = weights / weights.sum()
        for _ in range(_CANDIDATE_TRIES):
            target_class = int(rng.choice(classes, p=probs))
            files = self.class_files[target_class]
            index, name = files[rng.integers(len(files))]
            image = self.images[index]["image"]
            mask = _fitting(self.candidates(name), image.shape[:2])
            step = image.shape[0] // mask.shape[0]
            pixels = np.count_nonzero(mask == target_class) * step**2
            if pixels >= self.min_class_pixels:
                return target_class, image, mask
        return None


def _fitting(
    mask: UInt8[np.ndarray, "mh mw"], size: tuple[int, int]
) -> UInt8[np.ndarray, "h w"]:
    """A label map whose entries stand for equal squares of an image of `size`."""
    height, width = mask.shape
    step = size[0] // height
    if size == (step * height, step * width):
        return mask
    return cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST)


def copy_paste(
    image: UInt8[np.ndarray, "h w 3"],
    candidate_image: UInt8[np.ndarray, "ch cw 3"],
    candidate_label: UInt8[np.ndarray, "lh lw"],
    target_class: int,
    *,
    companions: Mapping[int, tuple[int, ...]],
    draws: Draws,
    scale_min: float = 1.0,
    scale_range: float = 1.5,
    min_component_pixels: int = MIN_COMPONENT_PIXELS,
) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"]]:
    """The image with a candidate's objects pasted in, and the labels they bring.

    Args:
        image: the student's augmented crop; left unchanged.
        candidate_image: an image of the training set, not augmented.
        candidate_label: its candidate mask, train ids and 255, at the image's size or
            a whole fraction of it: each entry stands for a square of pixels.
        target_class: the class to paste.
        companions: class → classes pasted along with it.
        draws: source of randomness.
        scale_min: least enlargement of an object.
        scale_range: objects grow by `scale_min + scale_range * U(0,1)`.
        min_component_pixels: smaller connected components are skipped.

    Returns:
        `(image, mix_label)`; `mix_label` is 255 where nothing was pasted.
    """
    wanted = np.zeros(256, np.uint8)
    wanted[[target_class, *companions.get(target_class, ())]] = 1
    canvas = _Canvas(
        image=image.copy(),
        labels=np.full(image.shape[:2], IGNORE, np.uint8),
        filled=np.zeros(image.shape[:2], bool),
        target_boxes=[],
    )
    step = candidate_image.shape[0] // candidate_label.shape[0]
    mask = cv2.LUT(candidate_label, wanted)
    for box, member in _components(mask, min_component_pixels / step**2):
        rows, columns = slice(*box[:2]), slice(*box[2:])
        labels = _repeat(candidate_label[rows, columns], step)
        box, member = tuple(step * n for n in box), _repeat(member, step)
        scale = scale_min + scale_range * draws.uniform()
        size = tuple(round(n * scale) for n in member.shape)
        if image.shape[0] <= size[0] or image.shape[1] <= size[1]:
            continue
        region = np.s_[box[0] : box[1], box[2] : box[3]]
        enlarged = _nearest(member.shape, size, scale)
        member = member[enlarged]
        pixels = candidate_image[region][enlarged][member]
        labels = labels[enlarged][member]
        place = _place(canvas, size, target_class in labels, draws)
        if place is not None:
            _paste(canvas, place, member, pixels=pixels, labels=labels)
            if (labels == target_class).all():
                r0, c0 = place
                canvas.target_boxes.append((r0, r0 + size[0], c0, c0 + size[1]))
    return canvas.image, canvas.labels


def _paste(canvas, place, member, *, pixels, labels):
    """Writes an object's pixels; its whole rectangle counts as filled."""
    (r0, c0), (height, width) = place, member.shape
    region = np.s_[r0 : r0 + height, c0 : c0 + width]
    canvas.image[region][member] = pixels
    canvas.labels[region][member] = labels
    canvas.filled[region] = True


def _repeat(array: np.ndarray, step: int) -> np.ndarray:
    """Every entry as a square of `step` by `step`."""
    return array if step == 1 else array.repeat(step, 0).repeat(step, 1)


def _components(mask: np.ndarray, min_pixels: float):
    """(box, member bool[bh,bw]) of 8-connected components, by first pixel in raster."""
    _, ids, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    found = []
    for k in range(1, len(stats)):
        left, top, width, height, area = stats[k].tolist()
        if area < min_pixels:
            continue
        member = ids[top : top + height, left : left + width] == k
        first = (top, left + int(member[0].argmax()))
        found.append((first, (top, top + height, left, left + width), member))
    for _, box, member in sorted(found, key=lambda item: item[0]):
        yield box, member


def _nearest(shape: tuple[int, int], size: tuple[int, int], scale: float):
    """Index of a nearest-neighbour resize, floor(i / scale); same size: a copy."""
    if shape == size:
        return np.s_[:, :]
    rows, columns = (
        np.minimum((np.arange(want) * (1 / scale)).astype(np.intp), have - 1)
        for want, have in zip(size, shape, strict=True)
    )
    return rows[:, None], columns


def _place(
    canvas: _Canvas, size: tuple[int, int], has_target: bool, draws: Draws
) -> tuple[int, int] | None:
    """Top left corner for an object of `size`, or None when every try failed.

    An object without the target class (a sign beside its pole) goes where objects
    of the target class already lie; others go where two corners are still free, the
    only overlap test of the published code.
    """
    (height, width), (image_h, image_w) = size, canvas.filled.shape
    for _ in range(_PLACEMENT_TRIES):
        if not has_target and canvas.target_boxes:
            r0, r1, c0, c1 = draws.choice(canvas.target_boxes)
            row, column = draws.randint(r0, r1 - 1), draws.randint(c0, c1 - 1)
            if row + height < image_h - 1 and column + width < image_w - 1:
                return row, column
        else:
            row = draws.randint(0, image_h - height - 1)
            column = draws.randint(0, image_w - width - 1)
            filled = canvas.filled
            if not (filled[row, column] or filled[row + height, column + width]):
                return row, column
    return None
