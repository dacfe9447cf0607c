"""The r-th largest of any number of float32 values, exactly, from counts alone.

Floats have the order of their bit patterns. A first pass counts the values by the upper
16 bits of a key, which finds the 65,536th of the number line that holds the r-th
largest; a second pass counts the values in it by the lower 16 bits, which finds the
value. Counts add up over batches and processes, so neither can change the result.
"""

import dataclasses
import pathlib
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int64, Integer, UInt8, UInt32

from sfda_jax.pseudo_labels.selector import State, Total

_DIGITS = 1 << 16
_MAGNITUDE = np.uint32(0x7FFFFFFF)


@runtime_checkable
class Accumulator(Protocol):
    """Finds the r-th largest value of each of several groups, whatever comes in.

    Its entries of the state are its own; `settle` ends a pass over the values and adds
    `found` float32[G] after the last of `passes`.
    """

    passes: ClassVar[int]

    def init(self, num_groups: int) -> State:
        """The state before the first value."""

    def add(
        self,
        state: State,
        groups: UInt8[np.ndarray, "n"],
        values: Float32[np.ndarray, "n"],
        *,
        scratch: pathlib.Path,
    ) -> State:
        """The state with the values of one image, each with its group."""

    def settle(
        self,
        state: State,
        *,
        ranks: Int64[np.ndarray, "g"],
        zeros: Int64[np.ndarray, "g"],
        scratch: pathlib.Path,
        total: Total,
    ) -> State:
        """The state after a pass.

        Args:
            state: of this process.
            ranks: which value of each group, from 1 for the largest; 0 for none, then
                `found` means nothing.
            zeros: how many values 0.0 belong to a group beside those added.
            scratch: what `add` was given.
            total: sum over all processes.
        """


def descending_keys(values: Float32[np.ndarray, "n"]) -> UInt32[np.ndarray, "n"]:
    """Integers that grow as the values fall; both zeros have one, NaN has no place."""
    bits = (values + np.float32(0)).view(np.uint32)  # -0.0 + 0.0 is 0.0
    return np.where(bits > _MAGNITUDE, bits, bits ^ _MAGNITUDE)


def key_values(keys: UInt32[np.ndarray, "n"]) -> Float32[np.ndarray, "n"]:
    """The values that `descending_keys` made these of."""
    return np.where(keys > _MAGNITUDE, keys, keys ^ _MAGNITUDE).view(np.float32)


def count_bins(
    groups: UInt8[np.ndarray, "n"],
    bins: Integer[np.ndarray, "n"],
    shape: tuple[int, int],
) -> Int64[np.ndarray, "g b"]:
    """How many values lie in each bin of each group."""
    places = groups.astype(np.int64) * shape[1] + bins
    return np.bincount(places, minlength=shape[0] * shape[1]).reshape(shape)


def locate(
    counts: Int64[np.ndarray, "g b"], ranks: Int64[np.ndarray, "g"]
) -> tuple[Int64[np.ndarray, "g"], Int64[np.ndarray, "g"]]:
    """The bin of each group's r-th value, and how many values lie in earlier bins."""
    until = np.cumsum(counts, axis=1)
    bins = np.argmax(until >= ranks[:, None], axis=1)
    rows = np.arange(len(bins))
    return bins, until[rows, bins] - counts[rows, bins]


@dataclasses.dataclass(frozen=True)
class Radix:
    """Two passes over the values; `G` × 65,536 counts whatever their number."""

    passes: ClassVar[int] = 2

    def init(self, num_groups: int) -> State:
        """No counts."""
        return {"upper": np.zeros((num_groups, _DIGITS), np.int64)}

    def add(
        self,
        state: State,
        groups: UInt8[np.ndarray, "n"],
        values: Float32[np.ndarray, "n"],
        *,
        scratch: pathlib.Path,
    ) -> State:
        """Counts the values by the half of their keys that this pass looks at."""
        keys = descending_keys(values)
        if "lower" not in state:
            counts = count_bins(groups, keys >> 16, state["upper"].shape)
            return {**state, "upper": state["upper"] + counts}
        inside = keys >> 16 == state["chosen"][groups]
        lower = keys[inside] & (_DIGITS - 1)
        counts = count_bins(groups[inside], lower, state["lower"].shape)
        return {**state, "lower": state["lower"] + counts}

    def settle(
        self,
        state: State,
        *,
        ranks: Int64[np.ndarray, "g"],
        zeros: Int64[np.ndarray, "g"],
        scratch: pathlib.Path,
        total: Total,
    ) -> State:
        """Chooses the upper half of the key, then the lower one."""
        zero = int(descending_keys(np.zeros(1, np.float32))[0])
        if "lower" not in state:
            counts = total(state["upper"]).copy()
            counts[:, zero >> 16] += zeros
            chosen, above = locate(counts, ranks)
            lower = np.zeros_like(counts)
            return {"chosen": chosen, "left": ranks - above, "lower": lower}
        counts = total(state["lower"]).copy()
        inside = state["chosen"] == zero >> 16
        counts[:, zero & (_DIGITS - 1)] += np.where(inside, zeros, 0)
        last, _ = locate(counts, state["left"])
        return {"found": key_values((state["chosen"] << 16 | last).astype(np.uint32))}
