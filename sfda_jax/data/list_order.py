"""The order in which a published list names its examples, where it is not the files'.

IAST's source lists were shuffled once, and its batches follow their order (iast.md,
sections 5.1 and 5.3). No seed of Python's or NumPy's shuffle is known to give it, so
`data_prep/splits/<list>_order.npy` holds it: file numbers, uint16.
"""

import importlib.resources
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

_FOLDER = importlib.resources.files("data_prep") / "splits"  # data, not code


def in_published_order(
    name: str, ids: Sequence[str], positions: Int[np.ndarray, "n"]
) -> Int[np.ndarray, "n"]:
    """The positions of a list's examples, reordered where the list has an own order.

    Args:
        name: of the list.
        ids: of the prepared split; numbers, where there is an own order.
        positions: in `ids`, of the listed examples, in file order.

    Returns:
        int64 positions.
    """
    file = _FOLDER / f"{name}_order.npy"
    if not file.is_file():
        return positions
    with file.open("rb") as stream:
        numbers = np.load(stream)
    place = {int(ids[i]): i for i in positions.tolist()}
    return np.array([place[n] for n in numbers.tolist() if n in place], np.int64)
