"""Features of source pixels that the network gets right: what prototypes are made of.

Sections 5.2 and 9 of BiSMAP's specification. Only a small share of a frequent class's
cells is taken, and of these only so many are kept: the first, as published, or those
with the lowest random draws of the whole pass (a reservoir).
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Int64, Num, UInt8

from sfda_jax.ops.resize import resize_nearest
from sfda_jax.types import IGNORE

PORTIONS: Mapping[str, tuple[float, ...]] = {
    "gta5": (
        *(0.002, 0.01, 0.003, 0.1, 0.1, 0.1, 1.0, 1.0, 0.01, 0.05),
        *(0.01, 0.5, 1.0, 0.05, 0.1, 0.2, 1.0, 1.0, 1.0),
    ),
    "synthia": (
        *(0.008, 0.04, 0.012, 0.4, 0.4, 0.4, 1.0, 0.5, 0.04, 0.2),
        *(0.02, 0.07, 0.5, 0.05, 0.4, 0.08, 1.0, 1.0, 1.0),
    ),
}
"""Share of the right cells of each of the 19 classes that is taken, by source."""


def correct_cells(
    labels: Num[Array, "b H W"], logits: Float[Array, "b h w c"]
) -> UInt8[Array, "b h w"]:
    """The class of each cell that the network predicts right, else `IGNORE`.

    Args:
        labels: train ids, brought to the network's stride as PyTorch does.
        logits: at the network's stride, not enlarged.
    """
    small = resize_nearest(labels.astype(jnp.uint8), logits.shape[1:3])
    right = small == logits.argmax(axis=-1).astype(jnp.uint8)
    return jnp.where(right, small, jnp.uint8(IGNORE))


def chosen_cells(
    cells: UInt8[np.ndarray, "b h w"],
    portions: Mapping[int, float],
    *,
    permutation: Callable[[int], Int[np.ndarray, "n"]],
) -> Iterator[tuple[int, Int64[np.ndarray, "n"]]]:
    """Host: (class, flat positions taken) of a batch, as published.

    Of n right cells of a class a random `int(n * portion)` are taken, in random order:
    none, where there are few.

    Args:
        cells: what `correct_cells` gave.
        portions: class → share; other classes are left out.
        permutation: of so many items, `Generator.permutation` for one; asked once for
            each class that has a cell, in the order of `portions`.
    """
    flat = cells.reshape(-1)
    for class_, portion in portions.items():
        places = np.flatnonzero(flat == class_)
        if len(places):
            order = permutation(len(places))[: int(len(places) * portion)]
            yield class_, places[order]


class DrawnRows(NamedTuple):
    """Features of some cells of every image, the lowest draws first.

    Attributes:
        features: of each cell.
        classes: of each cell, `IGNORE` for places without one.
        draws: uniform from 0 to 1, infinite for places without a cell.
    """

    features: Float[Array, "b n d"]
    classes: UInt8[Array, "b n"]
    draws: Float32[Array, "b n"]


def drawn_rows(
    features: Float[Array, "b h w d"],
    cells: UInt8[Array, "b h w"],
    draws: Float32[Array, "b h w"],
    *,
    portions: Float32[Array, "c"],
    count: int,
) -> DrawnRows:
    """Device: the cells with the lowest draws of each image, at most `count`.

    A cell takes part with the probability that is its class's portion, and its draw is
    then uniform again: a pool that keeps the lowest draws of a class holds a uniform
    sample of it, whatever the order of images, their batches and `count`, as long as
    it keeps no draw above the highest of an image that had more than `count`.

    Args:
        features: at the network's stride.
        cells: what `correct_cells` gave.
        draws: uniform from 0 to 1.
        portions: share of the right cells of each class.
        count: places for the cells of an image.
    """
    batch = len(cells)
    own = jnp.zeros(IGNORE + 1).at[: len(portions)].set(portions)
    portion = own[cells.astype(jnp.int32)]
    uniform = jnp.where(draws < portion, draws / portion, jnp.inf)
    lowest, places = jax.lax.top_k(-uniform.reshape(batch, -1), count)
    rows = features.reshape(batch, -1, features.shape[-1])
    classes = jnp.take_along_axis(cells.reshape(batch, -1), places, axis=1)
    return DrawnRows(
        features=jnp.take_along_axis(rows, places[..., None], axis=1),
        classes=jnp.where(jnp.isinf(lowest), jnp.uint8(IGNORE), classes),
        draws=-lowest,
    )


class RowPool:
    """Host: the rows of one class that have the lowest draws, at most `capacity`.

    Draws may be random (a reservoir) or the rows' own numbers (the first that came).
    It holds up to twice as many rows between two cuts.

    Args:
        capacity: rows to keep.

    Attributes:
        offered: rows that came.
    """

    def __init__(self, capacity: int):
        self.capacity = capacity
        self.offered = 0
        self._parts: list[tuple[np.ndarray, np.ndarray]] = []
        self._held = 0
        self._limit = np.inf

    def add(
        self, rows: Float32[np.ndarray, "n d"], draws: Num[np.ndarray, "n"]
    ) -> None:
        """Takes the rows whose draws are low enough so far."""
        self.offered += len(rows)
        low = draws < self._limit
        if low.any():
            self._parts.append((rows[low], draws[low]))
            self._held += int(low.sum())
        if self._held > 2 * self.capacity:
            self._cut()

    def add_next(self, rows: Float32[np.ndarray, "n d"]) -> None:
        """Takes the rows unless enough came before them."""
        self.add(rows, np.arange(self.offered, self.offered + len(rows)))

    def rows(self) -> Float32[np.ndarray, "n d"]:
        """What is kept, the lowest draw first; `[0,0]` if nothing ever came."""
        self._cut()
        return self._parts[0][0] if self._parts else np.zeros((0, 0), np.float32)

    def _cut(self) -> None:
        if not self._parts:
            return
        rows, draws = (np.concatenate(part) for part in zip(*self._parts, strict=True))
        order = np.argsort(draws, kind="stable")[: self.capacity]
        self._parts, self._held = [(rows[order], draws[order])], len(order)
        if self._held == self.capacity:
            self._limit = draws[order[-1]]
