"""Which classes are rare enough to be looked for when training crops are cut."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Num


def classes_below(
    sizes: Num[np.ndarray, "c"] | Sequence[int], fraction: float
) -> tuple[int, ...]:
    """Ids of the classes with less than `fraction` of the sum of `sizes`.

    Smallest first, equal ones by id (CRST's list; CBST's has the order of the ids).
    Absent classes count. None at all where every size is 0.
    """
    sizes = np.asarray(sizes, np.float64)
    if not sizes.sum():
        return ()
    rare = sizes / sizes.sum() < fraction
    return tuple(c for c in np.argsort(sizes, kind="stable").tolist() if rare[c])


def rare_classes(
    sizes: Num[np.ndarray, "c"] | Sequence[int], *, fraction: float, number: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """CBST's two lists: the classes looked for first, and those otherwise.

    The published sort is not stable: which of several equally small classes it takes
    is chance. Here it is the one with the smaller id.

    Args:
        sizes: of the classes `[C]`, in pixels or samples.
        fraction: of all pixels, below which a class comes first.
        number: how many classes are in the second list.

    Returns:
        `classes_below` by id, and the ids of the `number` smallest classes, smallest
        first; both empty where every size is 0.
    """
    sizes = np.asarray(sizes, np.float64)
    if not sizes.sum():
        return (), ()
    smallest = np.argsort(sizes, kind="stable")[:number]
    return tuple(sorted(classes_below(sizes, fraction))), tuple(smallest.tolist())
