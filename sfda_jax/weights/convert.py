"""Published checkpoints to our variables and back, with a strict report."""

import dataclasses
import logging
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from sfda_jax.errors import CheckpointError
from sfda_jax.types import ModelState
from sfda_jax.weights.checkpoint_file import (
    FILE_SUFFIXES,
    read_checkpoint,
    write_checkpoint,
)
from sfda_jax.weights.layout import (
    COLLECTIONS,
    entries_of,
    flatten,
    init_state,
    kind_of,
    layouts_of,
    to_ours,
    to_published,
    unflatten,
)
from sfda_jax.weights.match import OURS, Match, any_outputs, class_count, match
from sfda_jax.weights.orbax_folder import write_orbax_folder
from sfda_jax.weights.report import Report, compare, is_finite, matches

_LOG = logging.getLogger(__name__)
_NOT_WRITTEN = (".pkl", ".npz", ".h5", ".ckpt", ".onnx", ".msgpack", ".bin", ".zip")
_MAX_LISTED = 8
_CLASSIFIERS = ("*fc.*", "*head.*", "*classifier.*")

Initial = ModelState | Callable[[], ModelState] | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Filled:
    """A network and what a checkpoint put into it.

    Attributes:
        model: the module.
        state: its float32 variables.
        report: file against network.
        found: the file's own arrays, under the layout's names.
    """

    model: nn.Module
    state: ModelState
    report: Report
    found: Match


def fill(
    tree: Any,
    model: nn.Module,
    *,
    waive: Sequence[str] = (),
    backbone_only: bool = False,
    initial: Initial = None,
    layout: str = "",
    entry: str = "",
) -> Filled:
    """The network with a checkpoint's values.

    Args:
        tree: what `read_checkpoint` returned: one state dict, sections, either of
            them nested or prefixed, or our own variables.
        model: the network to fill.
        waive: shell patterns of `section/name` that may be missing, unexpected,
            mis-shaped or not finite; what is missing or mis-shaped keeps its initial
            value.
        backbone_only: allow a file without a classifier; everything but the backbone
            keeps its initial values.
        initial: state that supplies what is not loaded, or what makes it; drawn from
            key 0 by default.
        layout: the only layout to try; by default the one that fits best.
        entry: the part of the file to read where it holds several networks.

    Raises:
        CheckpointError: a name, shape or value is wrong and no pattern waives it; the
            message names the closest match.
    """
    found = match(tree, model, layout=layout, entry=entry)
    if backbone_only:
        found, waived = _backbone(found)
        waive = (*waive, *waived)
    report = compare_match(found, waive)
    if report.faults:
        raise _misfit(report, found, model)
    state = assemble(found, report, model, initial)
    return Filled(model=model, state=state, report=report, found=found)


def compare_match(found: Match, waive: Sequence[str] = ()) -> Report:
    """What the file and the network of a match have in common, and what not."""
    return compare(
        found.entries,
        found.arrays,
        waive=waive,
        layout=found.name,
        ignored=found.ignored,
    )


def _backbone(found: Match) -> tuple[Match, list[str]]:
    """Without what belongs to other parts, and those parts' keys."""
    others = [e for e in found.entries if e.path[0] != "backbone"]
    held = {e.key for e in found.entries if e.path[0] == "backbone"}
    # A classification network brings a head of its own.
    heads = [*_CLASSIFIERS, *(any_outputs(found.layout, e) for e in others)]
    left = {k: v for k, v in found.arrays.items() if k in held or not matches(k, heads)}
    ignored = (*found.ignored, *(k for k in found.arrays if k not in left))
    found = dataclasses.replace(found, arrays=left, ignored=ignored)
    return found, [entry.key for entry in others]


def _misfit(report: Report, found: Match, model: nn.Module) -> CheckpointError:
    lines = "\n  ".join(["", *report.fault_lines()])
    hint = (
        "Check the network's settings; use imagenet:PATH (backbone_only=True) for a "
        "file without classifier, or --waive PATTERN for names that may differ."
    )
    classes = class_count(model, found)
    if found.hits < len(found.entries) / 2:
        lines = f" it holds {found.hits} of {len(found.entries)} arrays{lines}"
        hint = "It is probably another network's: main models lists the known ones."
    elif classes and classes != model.num_classes:
        lines = f" it has {classes} classes, the task {model.num_classes}{lines}"
        hint = f"Choose a task of {classes} classes (config.task.classes), or load the "
        hint += "backbone alone: imagenet:PATH."
    return CheckpointError(
        f"The checkpoint does not fit {kind_of(model)} (layout {found.name}):{lines}",
        hint=hint,
    )


def assemble(
    found: Match, report: Report, model: nn.Module, initial: Initial = None
) -> ModelState:
    """The network's float32 variables: the file's where matched, else the initial.

    Args:
        found: the file's arrays.
        report: which of them to take.
        model: the network.
        initial: supplies the rest, or makes what does; drawn from key 0 by default.
    """
    _LOG.info("%s", report.summary())
    loaded = set(report.matched)
    flat: dict[str, dict[tuple[str, ...], Any]] = {name: {} for name in COLLECTIONS}
    if len(loaded) < len(found.entries):
        if initial is None:
            initial = init_state(model, jax.random.key(0))
        flat = flatten(initial() if callable(initial) else initial)
    for entry in found.entries:
        if entry.key in loaded:
            array = found.arrays[entry.key]
            if found.layout is not None:
                array = to_ours(found.layout, entry.path, array)
            array = np.ascontiguousarray(array, np.float32)
            flat[entry.collection][entry.path] = jnp.asarray(array)
    return unflatten(flat)


def to_flax(
    tree: Any,
    model: nn.Module,
    variables_abstract: ModelState | None = None,
    **settings: Any,
) -> ModelState:
    """The variables that `fill` makes.

    Args:
        tree: what `read_checkpoint` returned.
        model: the network to fill.
        variables_abstract: shapes to check against; the model's own by default.
        settings: of `fill`.

    Raises:
        CheckpointError: the file does not fit.
    """
    state = fill(tree, model, **settings).state
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


def to_torch(
    state: ModelState, model: nn.Module, layout: str = ""
) -> dict[str, dict[str, np.ndarray]]:
    """Published layout of our variables: section → name → float32 array.

    Args:
        state: the network's variables.
        model: the network they belong to.
        layout: which of the layouts, or `ours`; empty for the default one. A layout
            without sections is the section `""`.
    """
    if layout == OURS:
        return {
            collection: {
                "/".join(path): np.asarray(leaf) for path, leaf in held.items()
            }
            for collection, held in flatten(jax.device_get(state)).items()
            if held
        }
    module = layouts_of(model, layout)[0]
    flat = flatten(jax.device_get(state))
    sections: dict[str, dict[str, np.ndarray]] = {s: {} for s in module.SECTIONS}
    for entry in entries_of(module, state):
        leaf = np.asarray(flat[entry.collection][entry.path])
        array = to_published(module, entry.path, leaf)
        sections[entry.section][entry.name] = np.ascontiguousarray(array, np.float32)
    return sections


def load_published(
    path: str | os.PathLike[str], model: nn.Module, **settings: Any
) -> Filled:
    """The network with the values of a checkpoint of any known format.

    Args:
        path: file or Orbax folder; neither PyTorch nor MXNet is needed to read it.
        model: the network to fill.
        settings: of `fill`.

    Raises:
        CheckpointError: unreadable, or of another network.
    """
    try:
        return fill(read_checkpoint(path), model, **settings)
    except CheckpointError as error:
        if str(path) in error.message:
            raise
        raise CheckpointError(f"{path}: {error.message}", hint=error.hint) from error


def save_published(
    path: str | os.PathLike[str],
    state: ModelState,
    model: nn.Module,
    *,
    layout: str = "",
    iteration: int = 0,
) -> None:
    """Writes the variables under their published names, as the suffix says.

    The released code reads the file: `.pth` through `torch.load(weights_only=True)`.

    Args:
        path: file to write, `.pth`, `.safetensors` or `.params`.
        state: the network's variables.
        model: the network they belong to.
        layout: which of the layouts, or `ours`; empty for the default one.
        iteration: step to record beside the sections of a `.pth` file.

    Raises:
        CheckpointError: the file cannot be written.
    """
    tree: Mapping[str, Any] = to_torch(state, model, layout)
    if str(path).endswith((".pth", ".pt")) and layout != OURS and "" not in tree:
        tree = {"iteration": iteration, **tree}
    write_checkpoint(path, tree)


def describe(model: nn.Module) -> dict[str, Any]:
    """Kind and settings of a network, JSON types: what builds it again."""
    fields = [f.name for f in dataclasses.fields(model) if f.init]
    settings = {n: getattr(model, n) for n in fields if n not in ("parent", "name")}
    return {"kind": kind_of(model), "settings": settings}


def write_network(
    path: pathlib.Path,
    state: ModelState,
    model: nn.Module,
    *,
    layout: str = "",
    waive: Sequence[str] = (),
) -> None:
    """Writes a network alone: a published file, or an Orbax folder that describes it.

    Args:
        path: `.pth`, `.safetensors`, `.params`, or a folder.
        state: the network's variables.
        model: the network.
        layout: of the file; empty for the default one.
        waive: shell patterns of our names that may hold NaN or infinity.

    Raises:
        CheckpointError: a value is not finite, or the disk refuses.
    """
    broken = [
        f"{collection}/{'/'.join(place)}"
        for collection, leaves in flatten(state).items()
        for place, leaf in leaves.items()
        if not is_finite(np.asarray(leaf))
    ]
    broken = [key for key in broken if not matches(key, waive)]
    if broken:
        raise CheckpointError(
            f"{len(broken)} arrays hold NaN or infinity: "
            f"{', '.join(broken[:_MAX_LISTED])}.",
            hint="Did the training diverge? To write them all the same: --waive '*'.",
        )
    if path.suffix in FILE_SUFFIXES:
        save_published(path, state, model, layout=layout)
    elif path.suffix in _NOT_WRITTEN:
        raise CheckpointError(
            f"{path}: no checkpoints are written as {path.suffix}.",
            hint=f"Known: {', '.join(FILE_SUFFIXES)}, or a folder (Orbax).",
        )
    else:
        write_orbax_folder(path, state, describe(model))
