"""Published PyTorch checkpoints to our variables and back, with a strict report."""

import dataclasses
import difflib
import fnmatch
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from sfda_jax.errors import CheckpointError
from sfda_jax.types import ModelState
from sfda_jax.weights.layout import (
    Entry,
    abstract_state,
    flatten,
    init_state,
    kind_of,
    layout_of,
    published_entries,
)
from sfda_jax.weights.torch_file import read_torch_file, write_torch_file

_LOG = logging.getLogger(__name__)
_MAX_LISTED = 12


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """What a checkpoint and a network have and do not have in common.

    Attributes:
        matched: keys found, with the expected shape.
        missing: keys of the network that the checkpoint lacks.
        unexpected: keys of the checkpoint that the network lacks.
        misshaped: keys of both, with the shapes found and expected.
        waived: faulty keys that a pattern excuses.
    """

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshaped: tuple[str, ...]
    waived: tuple[str, ...]

    @property
    def faults(self) -> int:
        """Number of keys that no pattern excuses."""
        return len(self.missing) + len(self.unexpected) + len(self.misshaped)


def _to_ours(array: np.ndarray) -> np.ndarray:
    array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array
    return np.ascontiguousarray(array, np.float32)


def _to_published(array: Any) -> np.ndarray:
    array = np.asarray(array)
    array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array
    return np.ascontiguousarray(array, np.float32)


def _is_array(value: Any) -> bool:
    return isinstance(value, (np.ndarray, jax.Array))


def _without_prefix(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Drops `module.` (left by data-parallel wrappers) where every key has it."""
    if state_dict and all(name.startswith("module.") for name in state_dict):
        return {name.removeprefix("module."): v for name, v in state_dict.items()}
    return dict(state_dict)


def _published_arrays(tree: Any, layout: Any) -> dict[str, np.ndarray]:
    """`section/name` → array, of a checkpoint dict or an ImageNet state dict."""
    if not isinstance(tree, Mapping):
        raise CheckpointError(
            f"The checkpoint holds a {type(tree).__name__}, expected a dict with "
            f"{', '.join(layout.SECTIONS)}."
        )
    sections = {s: tree[s] for s in layout.SECTIONS if isinstance(tree.get(s), Mapping)}
    if not sections and tree and all(_is_array(v) for v in tree.values()):
        # A classification network: its names lack the backbone's prefix.
        names = _without_prefix(tree).items()
        backbone = {f"backbone.{n.removeprefix('backbone.')}": v for n, v in names}
        sections = {"feature_extractor": backbone}
    if not sections:
        raise CheckpointError(
            f"The checkpoint has the keys {sorted(map(str, tree))[:_MAX_LISTED]}, "
            f"expected {', '.join(layout.SECTIONS)}."
        )
    arrays = {
        f"{section}/{name}": value
        for section, state_dict in sections.items()
        for name, value in _without_prefix(state_dict).items()
    }
    return {
        key: np.asarray(value)
        for key, value in arrays.items()
        if not _matches(key, [f"*/{pattern}" for pattern in layout.DROPPED])
    }


def _matches(key: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(key, pattern) for pattern in patterns)


def _compare(
    entries: Sequence[Entry], arrays: Mapping[str, np.ndarray], waive: Sequence[str]
) -> Report:
    expected = {entry.key: entry for entry in entries}
    both = [key for key in expected if key in arrays]
    matched = [key for key in both if arrays[key].shape == expected[key].shape]
    faults = {
        "missing": [key for key in expected if key not in arrays],
        "unexpected": [key for key in arrays if key not in expected],
        "misshaped": [key for key in both if arrays[key].shape != expected[key].shape],
    }
    waived = [key for keys in faults.values() for key in keys if _matches(key, waive)]
    kept = {
        kind: tuple(key for key in keys if key not in waived)
        for kind, keys in faults.items()
    }
    return Report(matched=tuple(matched), waived=tuple(waived), **kept)


def _fault_message(
    report: Report, entries: Sequence[Entry], arrays: Mapping[str, np.ndarray]
) -> str:
    """What differs, with the closest name of the other side."""
    shapes = {entry.key: entry.shape for entry in entries}

    def closest(key, names):
        match = difflib.get_close_matches(key, names, n=1, cutoff=0.6)
        return f" (closest: {match[0]})" if match else ""

    lines = [
        *(
            f"missing {key}{closest(key, report.unexpected)}"
            for key in report.missing[:_MAX_LISTED]
        ),
        *(
            f"unexpected {key}{closest(key, report.missing or list(shapes))}"
            for key in report.unexpected[:_MAX_LISTED]
        ),
        *(
            f"{key} has shape {arrays[key].shape}, expected {shapes[key]}"
            for key in report.misshaped[:_MAX_LISTED]
        ),
    ]
    hidden = report.faults - len(lines)
    more = [f"and {hidden} more"] if hidden > 0 else []
    return "; ".join([*lines, *more])


def to_flax(
    tree: Any,
    model: nn.Module,
    variables_abstract: ModelState | None = None,
    *,
    waive: Sequence[str] = (),
    backbone_only: bool = False,
    initial: ModelState | None = None,
) -> ModelState:
    """Our float32 variables with a published checkpoint's values.

    Accepts adaptation and source checkpoints (`feature_extractor`, `classifier`,
    anything else beside them is ignored) and classification state dicts, whose names
    lack `backbone.` and whose `fc.*` is dropped.

    Args:
        tree: what `read_torch_file` returned.
        model: the network to fill.
        variables_abstract: shapes to check against; the model's own by default.
        waive: shell patterns of `section/name` that may be missing, unexpected or
            mis-shaped; what is not loaded keeps its initial value.
        backbone_only: allow a file without a classifier; the head keeps its initial
            values.
        initial: state that supplies what is not loaded; drawn from key 0 by default.

    Raises:
        CheckpointError: a name or shape differs and no pattern waives it; the message
            names the closest match.
    """
    layout = layout_of(model)
    entries = published_entries(model)
    arrays = _published_arrays(tree, layout)
    if backbone_only:
        heads = [s for s, module in layout.SECTIONS.items() if module == "head"]
        arrays = {k: v for k, v in arrays.items() if k.split("/")[0] not in heads}
        waive = (*waive, *(f"{section}/*" for section in heads))
    report = _compare(entries, arrays, waive)
    if report.faults:
        raise CheckpointError(
            f"The checkpoint does not fit {kind_of(model)}: "
            f"{_fault_message(report, entries, arrays)}.",
            hint="Check the network's settings and number of classes; pass "
            "backbone_only=True for an ImageNet file, or waive names by pattern.",
        )
    _LOG.info(
        "Loaded %d arrays; waived %d: %s",
        len(report.matched),
        len(report.waived),
        ", ".join(report.waived[:_MAX_LISTED]) or "none",
    )
    loaded = set(report.matched)
    if initial is None and len(loaded) < len(entries):
        initial = init_state(model, jax.random.key(0))
    flat = flatten(initial if initial is not None else abstract_state(model))
    for entry in entries:
        if entry.key in loaded:
            flat[entry.collection][entry.path] = jnp.asarray(
                _to_ours(arrays[entry.key])
            )
    state = ModelState(**{k: traverse_util.unflatten_dict(v) for k, v in flat.items()})
    if variables_abstract is not None:
        _check_structure(state, variables_abstract)
    return state


def _check_structure(state: ModelState, expected: ModelState) -> None:
    found, wanted = (
        jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)
        for tree in (state, expected)
    )
    if found != wanted:
        raise CheckpointError(
            "The network that was given and the variables that were asked for differ.",
            hint="Use the model the variables were made with.",
        )


def to_torch(state: ModelState, model: nn.Module) -> dict[str, dict[str, np.ndarray]]:
    """Published layout of our variables: section → name → float32 array.

    Args:
        state: the network's variables.
        model: the network they belong to.
    """
    flat = flatten(jax.device_get(state))
    sections: dict[str, dict[str, np.ndarray]] = {
        s: {} for s in layout_of(model).SECTIONS
    }
    for entry in published_entries(model):
        leaf = flat[entry.collection][entry.path]
        sections[entry.section][entry.name] = _to_published(leaf)
    return sections


def load_torch(
    path: str | os.PathLike[str],
    model: nn.Module,
    *,
    waive: Sequence[str] = (),
    backbone_only: bool = False,
    initial: ModelState | None = None,
) -> ModelState:
    """The network's variables from a published `.pth` file.

    Args:
        path: the file; PyTorch is not needed to read it.
        model: the network to fill.
        waive: shell patterns of `section/name` that may differ.
        backbone_only: the file has no classifier (ImageNet); keep the initial head.
        initial: state that supplies what is not loaded; drawn from key 0 by default.

    Raises:
        CheckpointError: unreadable, or of another network.
    """
    try:
        return to_flax(
            read_torch_file(path),
            model,
            waive=waive,
            backbone_only=backbone_only,
            initial=initial,
        )
    except CheckpointError as error:
        if str(path) in error.message:
            raise
        raise CheckpointError(f"{path}: {error.message}", hint=error.hint) from error


def save_torch(
    path: str | os.PathLike[str],
    state: ModelState,
    model: nn.Module,
    *,
    iteration: int = 0,
) -> None:
    """Writes the variables as `{iteration, feature_extractor, classifier}`.

    `torch.load(path, weights_only=True)` and the released code read the file.

    Args:
        path: file to write.
        state: the network's variables.
        model: the network they belong to.
        iteration: step to record.

    Raises:
        CheckpointError: the file cannot be written.
    """
    write_torch_file(path, {"iteration": iteration, **to_torch(state, model)})
