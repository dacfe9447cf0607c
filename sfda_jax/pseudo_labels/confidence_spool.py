"""The r-th largest of values kept in a file: exact in one pass, 5 bytes a value."""

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from sfda_jax.errors import TrainingError
from sfda_jax.pseudo_labels.confidence_ranks import Radix
from sfda_jax.pseudo_labels.selector import State, Total

_RECORD = np.dtype([("group", "u1"), ("value", "<f4")])
_CHUNK = 1 << 20  # records read at a time


@dataclasses.dataclass(frozen=True)
class Spool:
    """Writes every value down, and goes over the file twice at the end.

    Each process has its own file; what is found is the same for any number of them.
    The state knows how many values are its own: what an interrupted run wrote later is
    cut off.
    """

    passes: ClassVar[int] = 1

    def init(self, num_groups: int) -> State:
        """An empty file."""
        return {"spooled": np.array(0), "groups": np.array(num_groups)}

    def add(
        self,
        state: State,
        groups: UInt8[np.ndarray, "n"],
        values: Float32[np.ndarray, "n"],
        *,
        scratch: pathlib.Path,
    ) -> State:
        """Appends the values to the file.

        Raises:
            TrainingError: it is shorter than the state says, or cannot be written.
        """
        records = np.empty(len(values), _RECORD)
        records["group"], records["value"] = groups, values
        path, length = _path(scratch), int(state["spooled"])
        try:
            scratch.mkdir(parents=True, exist_ok=True)
            with open(path, "r+b" if length or path.exists() else "w+b") as file:
                _check_length(path, length)
                file.truncate(length * _RECORD.itemsize)
                file.seek(0, 2)
                file.write(records.tobytes())
        except OSError as error:
            raise TrainingError(
                f"Cannot write confidences to {path}: {error.strerror or error}.",
                hint="Free disk space and run the same command to go on, or set "
                "selector.accumulate to hist, which needs none.",
            ) from error
        return {**state, "spooled": np.array(length + len(records))}

    def settle(
        self,
        state: State,
        *,
        ranks: Int64[np.ndarray, "g"],
        zeros: Int64[np.ndarray, "g"],
        scratch: pathlib.Path,
        total: Total,
    ) -> State:
        """Counts the file's values twice, by halves of their keys."""
        radix = Radix()
        counts = radix.init(int(state["groups"]))
        for _ in range(radix.passes):
            for records in _chunks(_path(scratch), int(state["spooled"])):
                values = np.ascontiguousarray(records["value"])
                counts = radix.add(counts, records["group"], values, scratch=scratch)
            counts = radix.settle(
                counts, ranks=ranks, zeros=zeros, scratch=scratch, total=total
            )
        return counts


def _path(scratch: pathlib.Path) -> pathlib.Path:
    return scratch / "confidences.bin"


def _chunks(path: pathlib.Path, length: int) -> Iterator[np.ndarray]:
    if not length:
        return
    _check_length(path, length)
    with open(path, "rb") as file:
        for start in range(0, length, _CHUNK):
            yield np.fromfile(file, _RECORD, min(_CHUNK, length - start))


def _check_length(path: pathlib.Path, length: int) -> None:
    """Raises a TrainingError where values are missing that the state counts on."""
    found = path.stat().st_size // _RECORD.itemsize if path.exists() else 0
    if found < length:
        raise TrainingError(
            f"{path} holds {found} confidences, but {length} were measured.",
            hint="Delete the folder of this round in the run directory and run the "
            "same command: the round begins anew.",
        )
