"""What the labels of a training set hold, counted once and kept beside the data.

Pixels of every class in every image, from which class frequencies and lists of images
with rare classes follow; and where in the image the classes lie, the spatial priors of
CBST-SP.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import logging
import os
import pathlib
import re
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import cv2
import numpy as np
from jaxtyping import Bool, Float64, Int64, Integer, UInt32
from tqdm import tqdm

from sfda_jax.data.image_ops import resize
from sfda_jax.data.preparation import locked
from sfda_jax.data.sampling import MIN_CLASS_PIXELS
from sfda_jax.types import RandomAccess

_log = logging.getLogger(__name__)

PRIOR_KERNEL = 70
"""Side of the Gaussian that smooths spatial priors (CBST)."""

_AHEAD = 4  # labels in flight per thread
# What reading an archive that is cut off or altered may raise.
_DAMAGE = (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error)


@dataclasses.dataclass(frozen=True)
class ClassPixels:
    """Pixels of each class in each training image.

    Attributes:
        ids: of the images, in the order of their stream.
        counts: int64[N,C], at the stored size.
    """

    ids: tuple[str, ...]
    counts: Int64[np.ndarray, "n c"]

    @property
    def frequencies(self) -> Float64[np.ndarray, "c"]:
        """Each class's share of all labelled pixels; zeros where none is labelled."""
        totals = self.counts.sum(0)
        return totals / max(int(totals.sum()), 1)

    def presence(self, min_pixels: int = MIN_CLASS_PIXELS) -> Bool[np.ndarray, "n c"]:
        """Which images hold which classes, `min_pixels` of them or more."""
        return self.counts >= min_pixels


def count_class_pixels(source: RandomAccess, num_classes: int) -> ClassPixels:
    """The classes of a labelled split, in as many threads as there are cores.

    Args:
        source: records with `label` and `id`; 255 is not counted.
        num_classes: C.
    """

    def work(index: int):
        record = source[index]
        counts = np.bincount(record["label"].ravel(), minlength=256)[:num_classes]
        return record["id"], counts

    rows = list(_in_order(work, len(source), "class pixels"))
    counts = np.array([counts for _, counts in rows], np.int64)
    return ClassPixels(
        ids=tuple(name for name, _ in rows), counts=counts.reshape(-1, num_classes)
    )


def count_class_maps(
    source: RandomAccess, num_classes: int, size: tuple[int, int]
) -> UInt32[np.ndarray, "c h w"]:
    """In how many images each class lies at each pixel.

    Args:
        source: records with `label`.
        num_classes: C.
        size: (height, width) that labels are resized to, nearest.
    """
    counts = np.zeros((num_classes, *size), np.uint32)

    def work(index: int):
        return resize(source[index]["label"], size, "nearest")

    for label in _in_order(work, len(source), "class maps"):
        for c in np.unique(label):
            if c < num_classes:
                counts[c] += label == c
    return counts


def smoothed_frequencies(
    counts: Integer[np.ndarray, "c h w"],
    num_images: int,
    *,
    kernel: int = PRIOR_KERNEL,
    sigma: float | None = None,
) -> Float64[np.ndarray, "c h w"]:
    """Share of the images with each class at each pixel, blurred (CBST-SP).

    A truncated separable Gaussian with taps at -(S-1)/2 … (S-1)/2, applied at the
    offsets -S/2+1 … S/2 where S is even; borders are mirrored, the edge repeated.

    Args:
        counts: from `count_class_maps`.
        num_images: N.
        kernel: S.
        sigma: standard deviation; None for S / 6.
    """
    taps = np.arange(kernel) - (kernel - 1) / 2
    weights = np.exp(-0.5 * (taps / (sigma or kernel / 6)) ** 2)
    weights /= weights.sum()
    anchor = (kernel - 1) // 2
    blurred = [
        cv2.sepFilter2D(
            plane / num_images,
            cv2.CV_64F,
            weights,
            weights,
            anchor=(anchor, anchor),
            borderType=cv2.BORDER_REFLECT,
        )
        for plane in counts
    ]
    return np.stack(blurred)


def spatial_prior(
    smoothed: Float64[np.ndarray, "c h w"],
    *,
    normalise: Literal["class", "pixel"] = "class",
) -> Float64[np.ndarray, "c h w"]:
    """The prior of each class: sums to 1 over its pixels, or over classes at a pixel.

    Where there is nothing to normalise (a class that never occurs, a pixel that is
    always ignored) the prior is 0.

    Args:
        smoothed: from `smoothed_frequencies`.
        normalise: over what it sums to 1; the default of CBST-SP is per class.
    """
    axes = (1, 2) if normalise == "class" else (0,)
    total = smoothed.sum(axes, keepdims=True)
    return np.divide(smoothed, total, out=np.zeros_like(smoothed), where=total > 0)


def kept(
    path: pathlib.Path,
    ids: Sequence[str],
    compute: Callable[[], Mapping[str, np.ndarray]],
) -> Mapping[str, Any]:
    """The arrays of a statistics file, computed and written first if need be.

    Processes that ask for one file at once wait for the first of them. A file that is
    damaged, or of other images, is computed anew with a line in the log; one that
    cannot be written is done without.

    Args:
        path: the `.npz` file.
        ids: of the images that it has to be of.
        compute: the arrays by name.
    """
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(path.with_name(f".{path.stem}.lock")))
        except OSError as error:
            _log.warning("%s cannot be locked: %s", path, error)
        arrays = _read(path, ids)
        if arrays is None:
            arrays = compute()
            try:
                _write(path, {**arrays, "ids": np.array(ids)})
            except OSError as error:
                _log.warning("%s cannot be kept: %s", path, error)
        return arrays


def file_name(*parts: str) -> str:
    """The parts as one file name, free of what file systems object to."""
    return re.sub(r"[^\w.+=-]+", "_", "-".join(part for part in parts if part)) + ".npz"


def _read(path: pathlib.Path, ids: Sequence[str]) -> Mapping[str, Any] | None:
    if not path.exists():
        return None
    try:
        with open(path, "rb") as file, np.load(file) as stored:
            arrays = {name: stored[name] for name in stored.files}
        found = arrays.pop("ids").tolist()
    except _DAMAGE as error:
        _log.warning("%s is damaged (%s): counting anew.", path, error)
        return None
    if found != list(ids):
        _log.warning("%s is of %d other images: counting anew.", path, len(found))
        return None
    return arrays


def _write(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
    draft = path.with_suffix(".unfinished")
    with open(draft, "wb") as file:
        np.savez_compressed(file, **arrays)
    os.replace(draft, path)
    _log.info("Written: %s", path)


def _in_order(work: Callable[[int], Any], count: int, title: str) -> Iterator[Any]:
    """`work(0)`, `work(1)`, … from threads that run ahead a little, with progress."""
    threads = os.cpu_count() or 1
    quiet = not sys.stderr.isatty()
    with (
        tqdm(
            total=count,
            unit="image",
            desc=title,
            mininterval=30 if quiet else 0.5,
            disable=quiet and count < 200,
        ) as progress,
        concurrent.futures.ThreadPoolExecutor(threads) as pool,
    ):
        pending: collections.deque = collections.deque()
        try:
            for index in range(count):
                pending.append(pool.submit(work, index))
                if len(pending) >= _AHEAD * threads:
                    yield pending.popleft().result()
                    progress.update()
            while pending:
                yield pending.popleft().result()
                progress.update()
        finally:
            for future in pending:
                future.cancel()
