"""Which images hold which class, and rare-class sampling of training images."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int, UInt8

from sfda_jax.errors import DataError

MIN_CLASS_PIXELS = 50
"""An image holds a class from this many pixels of its label map on."""

SUB_EPOCH = 500
"""Draws after which the class counts start again, in adaptation."""


def classes_present(
    labels: UInt8[np.ndarray, "h w"],
    num_classes: int,
    *,
    min_pixels: int = MIN_CLASS_PIXELS,
    pixel_area: int = 1,
) -> Bool[np.ndarray, "{num_classes}"]:
    """Classes with at least `min_pixels` pixels in a label map.

    Args:
        labels: train ids and 255.
        num_classes: C.
        min_pixels: counted at the full resolution of the image.
        pixel_area: pixels of the full resolution that one of `labels` stands for,
            16 for a map stored at a quarter of each side.
    """
    counts = np.bincount(labels.ravel(), minlength=256)[:num_classes]
    return counts * pixel_area >= min_pixels


def class_lists(
    ids: Sequence[str], presence: Bool[np.ndarray, "n c"]
) -> list[Int[np.ndarray, "_"]]:
    """For each class, the positions of the images that hold it, by ascending id."""
    by_name = np.array(sorted(range(len(ids)), key=lambda i: ids[i]), np.int64)
    return [by_name[presence[by_name, c]] for c in range(presence.shape[1])]


def class_index(
    ids: Sequence[str], presence: Bool[np.ndarray, "n c"]
) -> tuple[list[list[str]], Mapping[str, list[int]]]:
    """`(class → ids that hold it, ascending; id → its classes, ascending)`."""
    by_class = [[ids[i] for i in found] for found in class_lists(ids, presence)]
    by_id = {
        name: np.flatnonzero(row).tolist()
        for name, row in zip(ids, presence, strict=True)
    }
    return by_class, by_id


def rsc_weights(counts: Int[np.ndarray, "c"]) -> Float64[np.ndarray, "c"]:
    """Probability of drawing each class: 1 / log(1.01 + share emitted), normalised.

    Args:
        counts: emitted images that hold each class, in this sub-epoch.
    """
    share = counts / max(counts.sum(), 1)
    weights = 1 / np.log(1 + 0.01 + share)
    return weights / weights.sum()


@runtime_checkable
class SamplerDraws(Protocol):
    """The random decisions of the rare-class sampler."""

    def draw_class(self, probs: Float64[np.ndarray, "c"]) -> int:
        """A class, with these probabilities."""

    def shuffle(self, images: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
        """The same images in another order."""


class RngSamplerDraws:
    """Decisions from a NumPy generator."""

    def __init__(self, rng: np.random.Generator):
        self._rng = rng

    def draw_class(self, probs: Float64[np.ndarray, "c"]) -> int:
        """A class, with these probabilities."""
        found = np.searchsorted(np.cumsum(probs), self._rng.random(), side="right")
        return min(int(found), len(probs) - 1)

    def shuffle(self, images: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
        """The same images in another order."""
        return self._rng.permutation(images)


def rsc_sequence(
    lists: Sequence[Int[np.ndarray, "_"]],
    presence: Bool[np.ndarray, "n c"],
    *,
    draws: SamplerDraws,
    sub_epoch: int = SUB_EPOCH,
) -> Iterator[list[int]]:
    """Images emitted by each sub-epoch, without end (DT-ST release, class sampler).

    A class with one image or none consumes its draw and emits nothing. Lists and the
    place reached in them live on from one sub-epoch to the next; counts do not.

    Args:
        lists: images of each class, as `class_lists` orders them.
        presence: bool[N,C], which classes each image holds.
        draws: source of randomness.
        sub_epoch: draws per sub-epoch.

    Yields:
        Positions of the emitted images, in order, `sub_epoch` of them at most.
    """
    lists = list(lists)
    pointers = [0] * len(lists)
    while True:
        counts = np.zeros(len(lists), np.int64)
        probs = rsc_weights(counts)
        emitted = []
        for _ in range(sub_epoch):
            c = draws.draw_class(probs)
            size = len(lists[c])
            if size <= 1:
                continue
            if pointers[c] > size - 1:
                lists[c] = draws.shuffle(lists[c])
                pointers[c] %= size - 1  # 1, not 0, for lists of three or more
            image = int(lists[c][pointers[c]])
            pointers[c] += 1
            emitted.append(image)
            counts += presence[image]
            probs = rsc_weights(counts)
        yield emitted


def rsc_order(
    ids: Sequence[str],
    presence: Bool[np.ndarray, "n c"],
    rng: np.random.Generator,
    *,
    num_samples: int,
    batch_size: int,
    sub_epoch: int = SUB_EPOCH,
) -> Int[np.ndarray, "{num_samples}"]:
    """Positions of the training images to visit, in order.

    Each sub-epoch's images are shuffled and cut to whole batches, as the published
    loader does. A sub-epoch with less than a batch waits for the next one.

    Args:
        ids: of the images; lists start in their ascending order.
        presence: bool[N,C], which classes each image holds.
        rng: generator of class draws and shuffles.
        num_samples: length of the result.
        batch_size: global batch.
        sub_epoch: draws per sub-epoch.

    Raises:
        DataError: no class has two images, so that nothing would ever be emitted.
    """
    lists = class_lists(ids, presence)
    if max((len(images) for images in lists), default=0) < 2:
        raise DataError(
            f"Rare-class sampling found no class with {MIN_CLASS_PIXELS} pixels or "
            f"more in two of the {len(ids)} images.",
            hint="Use a source model that predicts more than one class, more images, "
            "or uniform sampling.",
        )
    order: list[int] = []
    waiting: list[int] = []
    for emitted in rsc_sequence(
        lists, presence, draws=RngSamplerDraws(rng), sub_epoch=sub_epoch
    ):
        waiting += emitted
        if len(waiting) >= batch_size:
            whole = len(waiting) // batch_size * batch_size
            order += rng.permutation(waiting)[:whole].tolist()
            waiting = []
        if len(order) >= num_samples:
            break
    return np.array(order[:num_samples], np.int64)


def temperature_probabilities(
    totals: Int[np.ndarray, "c"], temperature: float
) -> tuple[Int[np.ndarray, "k"], Float32[np.ndarray, "k"]]:
    """The classes that occur, rarest first, and the probability of drawing each.

    softmax((1 - f) / T) with f a class's share of the labelled pixels: DAFormer (CVPR
    2022), Eq. 7, in float32 as released. T = inf draws classes evenly.

    Args:
        totals: labelled pixels of each class.
        temperature: T.
    """
    order = np.argsort(totals, kind="stable")
    classes = order[totals[order] > 0]
    shares = (totals[classes] / totals.sum()).astype(np.float32)
    scores = (1 - shares) / np.float32(temperature)
    weights = np.exp(scores - scores.max(initial=-np.inf))
    return classes, weights / weights.sum()


def temperature_order(
    counts: Int[np.ndarray, "n c"],
    rng: np.random.Generator,
    *,
    num_samples: int,
    temperature: float,
    min_pixels: int,
) -> Int[np.ndarray, "{num_samples}"]:
    """Positions of the training images to visit: a class, then one of its images.

    Args:
        counts: pixels of each class in each image.
        rng: generator of the draws.
        num_samples: length of the result.
        temperature: of `temperature_probabilities`.
        min_pixels: an image is a class's from this many of its pixels on; classes
            without such an image are not drawn.

    Raises:
        DataError: no class has an image.
    """
    classes, probs = temperature_probabilities(counts.sum(0), temperature)
    images = {int(c): np.flatnonzero(counts[:, c] >= min_pixels) for c in classes}
    drawable = np.array([images[int(c)].size > 0 for c in classes], bool)
    if not drawable.any():
        raise DataError(
            f"No class has {min_pixels} pixels or more in any of the {len(counts)} "
            "images.",
            hint="Lower min_class_pixels, or use uniform sampling.",
        )
    weights = np.where(drawable, probs, 0).astype(np.float64)
    drawn = rng.choice(classes, num_samples, p=weights / weights.sum())
    return np.array([rng.choice(images[int(c)]) for c in drawn], np.int64)
