"""Large images as tiles: where they lie, and the image decoded once for all of them."""

import dataclasses
import pathlib
import threading
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from data_prep.listing import Pair
from data_prep.reading import image_size


class Decoded(threading.local):
    """The last file of each kind that a thread decoded: its other tiles come next."""

    def __init__(self):
        self._last: dict[str, tuple] = {}

    def get(
        self, kind: str, path: pathlib.Path, decode: Callable[[], np.ndarray]
    ) -> np.ndarray:
        """What `decode` makes of the file, or made of it before; do not write to it.

        Args:
            kind: one array is kept of each, e.g. `image`.
            path: the file; decoded anew when it was written since.
            decode: reads it.
        """
        written = path.stat().st_mtime_ns if path.exists() else 0
        if self._last.get(kind, (None,))[0] != (path, written):
            self._last.pop(kind, None)  # before the next one takes its memory
            self._last[kind] = (path, written), decode()
        return self._last[kind][1]


def tiles(
    pairs: Iterable[Pair], *, tile: int, stride: int, dataset: str
) -> Iterator[Pair]:
    """The pairs' tiles, row by row; an image no larger than a tile stays whole.

    A tile's id is `<id of the pair>_<top>_<left>`, five digits each.

    Args:
        pairs: whole images, whose headers are read.
        tile: height and width; less only where the image is smaller.
        stride: from one tile to the next, at most `tile`.
        dataset: for the errors.

    Raises:
        DataError: a file that is no image.
    """
    for pair in pairs:
        height, width = image_size(pair.image, dataset=dataset)
        if height <= tile and width <= tile:
            yield pair
            continue
        for top in starts(height, tile, stride):
            for left in starts(width, tile, stride):
                yield dataclasses.replace(
                    pair,
                    id=f"{pair.id}_{top:05d}_{left:05d}",
                    box=(top, left, min(tile, height), min(tile, width)),
                )


def starts(length: int, tile: int, stride: int) -> list[int]:
    """Where tiles begin so that they cover a length; the last one is moved inwards."""
    if length <= tile:
        return [0]
    return [*range(0, length - tile, stride), length - tile]
