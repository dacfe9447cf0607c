"""Scalars to metrics.jsonl and TensorBoard, and the progress bar."""

import contextlib
import json
import math
import pathlib
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

from tensorboardX import SummaryWriter
from tqdm import tqdm


class MetricsLog:
    """Appends one JSON object per line; the numbers go to TensorBoard too.

    Lines after `resumed_at` (a checkpoint number) are dropped on opening: the steps
    they speak of will run again.
    """

    def __init__(self, run_dir: pathlib.Path, *, resumed_at: int):
        path = run_dir / "metrics.jsonl"
        kept = [line for line in _lines(path) if line["tick"] <= resumed_at]
        self._start = time.monotonic() - (kept[-1]["wall"] if kept else 0.0)
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(_dump(line) for line in kept), encoding="utf-8")
        temporary.replace(path)
        self._file = path.open("a", encoding="utf-8")
        self._board = SummaryWriter(
            str(run_dir / "tensorboard"), purge_step=resumed_at + 1
        )

    @property
    def wall(self) -> float:
        """Seconds this run has taken, interruptions left out."""
        return round(time.monotonic() - self._start, 3)

    def write(self, tick: int, values: Mapping[str, Any]) -> None:
        """One line, flushed: a killed process loses nothing that was logged."""
        line = {"tick": tick, **values, "wall": self.wall}
        self._file.write(_dump(line))
        self._file.flush()
        stage = values.get("stage", "")
        for name, value in _scalars(values):
            self._board.add_scalar(f"{stage}/{name}", value, tick)

    def close(self) -> None:
        """Flushes and closes both files."""
        self._file.close()
        self._board.close()


@contextlib.contextmanager
def open_log(run_dir: pathlib.Path, *, resumed_at: int) -> Iterator[MetricsLog]:
    """The run's log, closed at the end."""
    log = MetricsLog(run_dir, resumed_at=resumed_at)
    try:
        yield log
    finally:
        log.close()


def progress(description: str, total: int, initial: int) -> tqdm:
    """A bar with ETA; in a log file it prints a line now and then instead."""
    terminal = sys.stderr.isatty()
    return tqdm(
        desc=description,
        total=total,
        initial=initial,
        unit="step",
        dynamic_ncols=True,
        mininterval=0.5 if terminal else 20.0,
        file=sys.stderr,
    )


def _lines(path: pathlib.Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    found = []
    for text in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError):  # a line cut short by a kill
            found.append(json.loads(text))
    return found


def _dump(line: Mapping[str, Any]) -> str:
    return json.dumps(line, default=float) + "\n"


def _scalars(
    values: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, float]]:
    """Every finite number, nested names joined by `/`."""
    for name, value in values.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if isinstance(value, Mapping):
            yield from _scalars(value, f"{prefix}{name}/")
        elif number and math.isfinite(value) and name not in ("tick", "round"):
            yield f"{prefix}{name}".replace(" ", "_"), float(value)
