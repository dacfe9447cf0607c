"""Orbax checkpoints: one item per network, the training state, and the position."""

import contextlib
import dataclasses
import errno
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from sfda_jax.errors import CheckpointError
from sfda_jax.types import AdaptState, ModelState

_keep = ocp.training.preservation_policies
_save = ocp.training.save_decision_policies
_LISTED = 5


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run, numbered by `recipe.tick`."""

    checkpointer: ocp.training.Checkpointer
    directory: pathlib.Path

    def latest(self) -> int | None:
        """Number of the newest complete checkpoint."""
        found = self.checkpointer.latest
        return None if found is None else found.step

    def save(self, number: int, state: AdaptState) -> None:
        """Starts writing a checkpoint; atomic, and the loop goes on meanwhile.

        Raises:
            CheckpointError: the disk is full or not writable.
        """
        if self.latest() == number:
            return
        with _disk_errors(self.directory):
            self.checkpointer.save_checkpointables_async(
                number, _items(state), overwrite=False
            )

    def wait(self) -> None:
        """Returns when every started save is on disk."""
        with _disk_errors(self.directory):
            self.checkpointer.wait()

    def restore(self, number: int, abstract: AdaptState) -> AdaptState:
        """The state of a checkpoint, on the devices that `abstract` names.

        Raises:
            CheckpointError: it belongs to another network or is damaged.
        """
        shapes = _items(abstract)
        parts = {
            name: load_item(self.directory / str(number), name, shapes[name])
            for name in shapes
        }
        return AdaptState(
            step=parts["training"]["step"],
            student=parts["student"],
            teacher=parts.get("teacher"),
            opt_state=parts["training"]["opt_state"],
            method=parts["training"]["method"],
        )


def load_item(path: pathlib.Path, name: str, abstract: Any) -> Any:
    """One item of a checkpoint, e.g. the `teacher` alone, without the optimiser.

    Args:
        path: the checkpoint, e.g. `runs/demo/checkpoints/300`.
        name: `student`, `teacher`, `training`, or `network` in a converted folder.
        abstract: shapes, dtypes and shardings expected.

    Raises:
        CheckpointError: missing, damaged, or of another network.
    """
    if not path.is_dir():
        raise CheckpointError(
            f"{path}: no such checkpoint.", hint=f"Found: {_numbers(path.parent)}."
        )
    cause = None
    try:
        stored = ocp.metadata(str(path.resolve()), checkpointable_name=name).metadata
        faults = _mismatches(_shapes(stored), _shapes(abstract))
        if not faults:
            return ocp.load(str(path.resolve()), abstract, checkpointable_name=name)
    except (ValueError, KeyError, FileNotFoundError) as error:
        cause, faults = error, [" ".join(str(error).split("\n")[:4])]
    raise CheckpointError(
        f"{path}: item {name!r} does not fit this network:\n  "
        + "\n  ".join(faults[:_LISTED])
        + (f"\n  … and {len(faults) - _LISTED} more" if len(faults) > _LISTED else ""),
        hint="Was it made with another model? Compare its config.json with --config, "
        "or give another --workdir.",
    ) from cause


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Path → shape, alike for stored trees (dicts) and ours (dataclasses)."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
        for path, leaf in leaves
    }


def _mismatches(
    stored: dict[str, tuple[int, ...]], expected: dict[str, tuple[int, ...]]
) -> list[str]:
    """One line per array that is missing, unexpected or of another shape."""
    lines = []
    for path in sorted(stored.keys() | expected.keys()):
        found, wanted = stored.get(path, "none"), expected.get(path, "none")
        if found != wanted:
            lines.append(f"{path}: found {found}, expected {wanted}")
    return lines


def save_item(path: pathlib.Path, name: str, value: Any) -> None:
    """Writes one item as a checkpoint of its own, replacing what was there.

    Raises:
        CheckpointError: the disk is full or not writable.
    """
    with _disk_errors(path):
        ocp.save_checkpointables(str(path.resolve()), {name: value}, overwrite=True)


def abstract_like(state: Any, sharding: jax.sharding.Sharding) -> Any:
    """Shapes and dtypes of a state, to be restored onto `sharding`."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=sharding), state
    )


@contextlib.contextmanager
def open_checkpoints(
    directory: pathlib.Path, *, keep: Sequence[int]
) -> Iterator[Checkpoints]:
    """The run's checkpoints, opened for writing and closed at the end.

    Args:
        directory: made when missing.
        keep: numbers that are never deleted (stage ends); of the rest the newest two
            are kept.
    """
    with _disk_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
        checkpointer = ocp.training.Checkpointer(
            directory.resolve(),
            cleanup_tmp_directories=True,
            save_decision_policy=_save.FixedIntervalPolicy(1),
            preservation_policy=_keep.AnyPreservationPolicy(
                [_keep.LatestN(2), _keep.CustomSteps(list(keep))]
            ),
        )
    try:
        yield Checkpoints(checkpointer, directory)
    finally:
        with _disk_errors(directory):
            checkpointer.close()


def network(state: AdaptState, name: str) -> ModelState:
    """The student, or the teacher where a stage has one.

    Raises:
        CheckpointError: a teacher is asked for and there is none.
    """
    if name == "student":
        return state.student
    if state.teacher is None:
        raise CheckpointError(
            "This stage has no teacher to evaluate.",
            hint="Set its config.stages.NAME.network to 'student'.",
        )
    return state.teacher


def _items(state: AdaptState) -> dict[str, Any]:
    items = {
        "student": state.student,
        "training": {
            "step": state.step,
            "opt_state": state.opt_state,
            "method": state.method,
        },
    }
    if state.teacher is not None:
        items["teacher"] = state.teacher
    return items


def _numbers(directory: pathlib.Path) -> str:
    names = [p.name for p in directory.glob("*") if p.name.isdigit()]
    return ", ".join(sorted(names, key=int)) or "none"


@contextlib.contextmanager
def _disk_errors(directory: pathlib.Path) -> Iterator[None]:
    """Turns a full or read-only disk into one clear error."""
    try:
        yield
    except Exception as error:
        cause = _disk_cause(error)
        if cause is None:
            raise
        raise CheckpointError(
            f"{directory}: cannot write a checkpoint: {cause}.",
            hint="Earlier checkpoints are intact. Free space or choose another "
            "--workdir, then run the same command again: it resumes.",
        ) from error


def _disk_cause(error: BaseException | None) -> str | None:
    """Why the disk refused, looked for along the chain of causes."""
    while error is not None:
        number = getattr(error, "errno", None)
        text = str(error)
        if number == errno.ENOSPC or "No space left" in text:
            return "no space left on the device"
        if number in (errno.EACCES, errno.EROFS) or "Permission denied" in text:
            return "permission denied"
        error = error.__cause__ or error.__context__
    return None
