"""Positions between rows, and values there: resampling without antialiasing."""

import dataclasses

import numpy as np
from jaxtyping import Float32, Int, Real
from PIL import Image


@dataclasses.dataclass(frozen=True)
class Axis:
    """Rows (or columns) of a map between which those of a sample lie."""

    before: Int[np.ndarray, "n"]
    after: Int[np.ndarray, "n"]
    share: Float32[np.ndarray, "n"]

    def __getitem__(self, part: slice) -> "Axis":
        """Some of the sample's rows."""
        return Axis(self.before[part], self.after[part], self.share[part])


def aligned(have: int, want: int) -> Axis:
    """Rows of a bilinear resize with aligned corners, positions in float32 (PyTorch).

    >>> aligned(3, 5).before, aligned(3, 5).share
    (array([0, 0, 1, 1, 2]), array([0. , 0.5, 0. , 0.5, 0. ], dtype=float32))
    """
    step = np.float32((have - 1) / max(want - 1, 1))
    at = np.arange(want, dtype=np.float32) * step
    before = np.minimum(at.astype(np.int64), have - 1)
    after = np.minimum(before + 1, have - 1)
    return Axis(before, after, at - before.astype(np.float32))


def torch_nearest(have: int, want: int) -> Int[np.ndarray, "{want}"]:
    """Source row of each row of PyTorch's nearest resize: floor(i * have / want).

    In float32: double precision takes another row for some sizes.
    """
    step = np.float32(have / want)
    at = np.floor(np.arange(want, dtype=np.float32) * step).astype(np.intp)
    return np.minimum(at, have - 1)


def pillow_nearest(have: int, want: int) -> Int[np.ndarray, "{want}"]:
    """Source row of each row of Pillow's nearest resize, about (i + 0.5) * have / want.

    Asked of Pillow: it adds steps up, and so rounds whole numbers down at times.
    """
    rows = Image.fromarray(np.arange(have, dtype=np.int32)[:, None])
    return np.asarray(rows.resize((1, want), Image.Resampling.NEAREST))[:, 0]


def blended(
    values: Real[np.ndarray, "h w c"], rows: Axis, columns: Axis
) -> Float32[np.ndarray, "sh sw c"]:
    """Bilinear values at the crossings of rows and columns."""
    top, left = rows.before.min(), columns.before.min()
    part = values[top : rows.after.max() + 1, left : columns.after.max() + 1]
    part = part.astype(np.float32)
    mixed = part[rows.before - top]
    if rows.share.any():
        mixed += (part[rows.after - top] - mixed) * rows.share[:, None, None]
    found = mixed[:, columns.before - left]
    if columns.share.any():
        right = mixed[:, columns.after - left]
        found += (right - found) * columns.share[:, None]
    return found
