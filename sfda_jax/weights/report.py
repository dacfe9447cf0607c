"""What a checkpoint and a network have in common, and what they do not."""

import dataclasses
import difflib
import fnmatch
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from sfda_jax.weights.layout import Entry

_MAX_LISTED = 8
_FAULTS = ("missing", "unexpected", "misshaped", "nonfinite")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """A file against a network, name by name.

    Attributes:
        layout: the published layout the file was read by; `ours` for Orbax folders.
        matched: keys found, with the expected shape.
        missing: keys of the network that the checkpoint lacks.
        unexpected: keys of the checkpoint that the network lacks.
        misshaped: keys of both whose shapes differ.
        nonfinite: keys that match and hold NaN or infinity.
        waived: faulty keys that a pattern excuses.
        ignored: what the file holds beside the network and the layout drops.
        found: shape of every array of the checkpoint.
        expected: shape of every array of the network.
    """

    layout: str
    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshaped: tuple[str, ...]
    nonfinite: tuple[str, ...]
    waived: tuple[str, ...]
    ignored: tuple[str, ...]
    found: Mapping[str, tuple[int, ...]]
    expected: Mapping[str, tuple[int, ...]]

    @property
    def faults(self) -> int:
        """Number of keys that no pattern excuses."""
        return sum(len(getattr(self, kind)) for kind in _FAULTS)

    def fault_lines(self) -> list[str]:
        """One line per fault, the first few of each kind, with the closest name."""
        shown = [self._line(k, n) for k in _FAULTS for n in self._first(k)]
        hidden = self.faults - len(shown)
        return [*shown, f"and {hidden} more"] if hidden else shown

    def _first(self, kind: str) -> tuple[str, ...]:
        return getattr(self, kind)[:_MAX_LISTED]

    def _line(self, kind: str, key: str) -> str:
        match kind:
            case "missing":
                return f"missing {key}{_closest(key, self.unexpected)}"
            case "unexpected":
                names = self.missing or tuple(self.expected)
                return f"unexpected {key}{_closest(key, names)}"
            case "misshaped":
                shapes = f"{self.found[key]}, expected {self.expected[key]}"
                return f"{key} has shape {shapes}"
            case _:
                return f"{key} holds NaN or infinity"

    def summary(self) -> str:
        """The counts, in one line."""
        counts = [f"{len(getattr(self, k))} {k}" for k in ("matched", *_FAULTS)]
        return f"layout {self.layout}: {', '.join(counts)}"

    def format(self) -> str:
        """The counts, and the names behind those that are not zero."""
        lines = [self.summary(), *(f"  {line}" for line in self.fault_lines())]
        for kind in ("waived", "ignored"):
            names = getattr(self, kind)
            if names:
                more = f" and {len(names) - _MAX_LISTED} more"
                listed = ", ".join(names[:_MAX_LISTED])
                hidden = more if len(names) > _MAX_LISTED else ""
                lines.append(f"  {kind} ({len(names)}): {listed}{hidden}")
        return "\n".join(lines)


def matches(key: str, patterns: Iterable[str]) -> bool:
    """Whether one of the shell patterns fits."""
    return any(fnmatch.fnmatchcase(key, pattern) for pattern in patterns)


def compare(
    entries: Sequence[Entry],
    arrays: Mapping[str, np.ndarray],
    *,
    waive: Sequence[str] = (),
    layout: str = "",
    ignored: Sequence[str] = (),
) -> Report:
    """The report on a file's arrays.

    Args:
        entries: what the network needs.
        arrays: what the file holds.
        waive: shell patterns of keys whose faults are excused.
        layout: name to report.
        ignored: names to report.
    """
    expected = {entry.key: entry.shape for entry in entries}
    both = [key for key in expected if key in arrays]
    matched = [key for key in both if arrays[key].shape == expected[key]]
    faults = {
        "missing": [key for key in expected if key not in arrays],
        "unexpected": [key for key in arrays if key not in expected],
        "misshaped": [key for key in both if arrays[key].shape != expected[key]],
        "nonfinite": [key for key in matched if not is_finite(arrays[key])],
    }
    waived = [key for keys in faults.values() for key in keys if matches(key, waive)]
    kept = {
        kind: tuple(key for key in keys if not matches(key, waive))
        for kind, keys in faults.items()
    }
    return Report(
        layout=layout,
        matched=tuple(matched),
        waived=tuple(waived),
        ignored=tuple(ignored),
        found={key: array.shape for key, array in arrays.items()},
        expected=expected,
        **kept,
    )


def is_finite(array: np.ndarray) -> bool:
    """Whether no element is NaN or infinite."""
    # The sum of a finite array may overflow; only then is every element looked at.
    with np.errstate(over="ignore", invalid="ignore"):
        total = np.sum(array, dtype=np.float32)
    return bool(np.isfinite(total) or np.isfinite(np.asarray(array, np.float64)).all())


def _closest(key: str, names: Sequence[str]) -> str:
    match = difflib.get_close_matches(key, names, n=1, cutoff=0.6)
    return f" (closest: {match[0]})" if match else ""
