"""Crops centred on rare classes: small-class patch mining of CBST and CRST."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8


@runtime_checkable
class Draws(Protocol):
    """The part of `numpy.random.Generator` that crops draw from."""

    def random(self) -> float:
        """Uniform in [0, 1)."""

    def integers(self, low: int, high: int) -> int:
        """Uniform in low to high - 1."""


def mined_pixel(
    labels: UInt8[np.ndarray, "h w"],
    draws: Draws,
    *,
    priority: Sequence[int],
    others: Sequence[int] = (),
    window: tuple[slice, slice] = (slice(None), slice(None)),
) -> tuple[int, int] | None:
    """A pixel of a rare class: one of the classes present, then one of its pixels.

    Args:
        labels: train ids.
        draws: of the class, then of the pixel in row-major order; of neither if no
            listed class is present.
        priority: classes looked for first.
        others: classes looked for where no class of `priority` is present.
        window: rows and columns where the pixel may lie.

    Returns:
        (row, column) in `labels`, or None.
    """
    rows, columns = (
        part.indices(size)[:2] for part, size in zip(window, labels.shape, strict=True)
    )
    seen = labels[slice(*rows), slice(*columns)]
    counts = np.bincount(seen.ravel(), minlength=256)
    present = [c for c in priority if counts[c]] or [c for c in others if counts[c]]
    if not present:
        return None
    chosen = present[int(draws.integers(0, len(present)))]
    nth = int(draws.integers(0, int(counts[chosen])))
    at = np.flatnonzero(seen == chosen)[nth]
    row, column = divmod(int(at), seen.shape[1])
    return rows[0] + row, columns[0] + column
