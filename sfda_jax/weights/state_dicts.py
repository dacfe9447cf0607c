"""The named arrays of a checkpoint, wherever they are nested and however prefixed."""

import dataclasses
import fnmatch
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from sfda_jax.errors import CheckpointError
from sfda_jax.registry import closest
from sfda_jax.weights.layout import COLLECTIONS, joined

Arrays = dict[str, np.ndarray]

_MAX_DEPTH = 4
_MAX_LISTED = 12
# What training leaves beside a network.
_TRAINING = ("*optim*", "*sched*", "*scaler*", "*rng*")
# What wrappers put before every name.
_WRAPPERS = ("module.", "model.", "backbone.")
# Heads of names by which one state dict holds several networks, and what a user may
# call them.
_NETWORKS = {
    "student": ("student", "model"),
    "teacher": ("teacher", "ema", "ema_model", "model_ema", "state_dict_ema"),
    "imagenet": ("imnet_model",),
}
_NETWORKS["ema"] = _NETWORKS["teacher"]
_HEADS = {head for heads in _NETWORKS.values() for head in heads}


@dataclasses.dataclass(frozen=True)
class StateDict:
    """One candidate for a network's arrays.

    Attributes:
        entry: where in the file it lies, what `--entry` takes; empty for the top.
        arrays: `section/name`, or name, to array.
    """

    entry: str
    arrays: Arrays


def _nodes(
    tree: Any, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """Every dict of the tree that is not the optimiser's, with its place."""
    if not isinstance(tree, Mapping):
        return
    yield path, tree
    for key, value in tree.items():
        if len(path) < _MAX_DEPTH and isinstance(key, str) and not _is_training(key):
            yield from _nodes(value, (*path, key))


def _is_training(key: str) -> bool:
    return any(fnmatch.fnmatchcase(key.lower(), pattern) for pattern in _TRAINING)


def left_out(tree: Any) -> tuple[str, ...]:
    """Entries that belong to the optimiser and are never read."""
    return tuple(
        ".".join((*path, key))
        for path, node in _nodes(tree)
        for key, value in node.items()
        if isinstance(key, str) and _is_training(key) and isinstance(value, Mapping)
    )


def _arrays(node: Any) -> Arrays:
    """The arrays that lie directly in a dict."""
    if not isinstance(node, Mapping):
        return {}
    return {
        name: np.asarray(value)
        for name, value in node.items()
        if isinstance(name, str) and hasattr(value, "shape") and hasattr(value, "dtype")
    }


def _without(prefix: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Names that start with `prefix`, without it."""
    return {
        name.removeprefix(prefix): value
        for name, value in arrays.items()
        if name.startswith(prefix)
    }


def _unwrapped(arrays: Arrays) -> Arrays:
    """Without the `module.` that data-parallel wrappers put before every name."""
    bare = _without("module.", arrays)
    return bare if len(bare) == len(arrays) else arrays


def _networks(entry: str, arrays: Arrays) -> list[StateDict]:
    """One state dict per network where the names' heads tell several apart."""
    arrays = _unwrapped(arrays)
    heads = {name.split(".", 1)[0] for name in arrays}
    if len(heads) < 2 or not heads <= _HEADS:
        return [StateDict(entry, arrays)]
    return [
        StateDict(f"{entry}.{head}".strip("."), _without(f"{head}.", arrays))
        for head in sorted(heads)
    ]


def state_dicts(tree: Any, sections: Mapping[str, str]) -> list[StateDict]:
    """Every place of the tree where a network of this layout may lie.

    Args:
        tree: what `read_checkpoint` returned, or part of it.
        sections: the layout's `SECTIONS`.
    """
    found, used = [], set()
    for path, node in _nodes(tree):
        if path[:-1] in used and path[-1] in sections:
            continue
        entry = ".".join(path)
        inside = {s: _arrays(node.get(s)) for s in sections if s and s in node}
        if any(inside.values()):
            used.add(path)
            arrays = {
                joined(section, name): value
                for section, held in inside.items()
                for name, value in _unwrapped(held).items()
            }
            found.append(StateDict(entry, arrays))
        elif flat := _arrays(node):
            found += _networks(entry, flat)
    return found


def own_networks(tree: Any) -> list[StateDict]:
    """Networks stored under our own names (Orbax): `params/backbone/conv1/kernel`."""
    found = []
    for path, node in _nodes(tree):
        trees = {name: node[name] for name in COLLECTIONS if name in node}
        if isinstance(trees.get("params"), Mapping):
            found.append(StateDict(".".join(path), dict(_leaves(trees))))
    return found


def _leaves(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        place = joined(path, key)
        if isinstance(value, Mapping):
            yield from _leaves(value, place)
        else:
            yield place, np.asarray(value)


def renamings(state: StateDict, sections: Mapping[str, str]) -> Iterator[Arrays]:
    """The arrays under every spelling of their names that a layout may expect.

    Wrappers' prefixes are taken away where all names have them; `backbone.` is put
    before names that lack it; a file without sections becomes the backbone's.
    """
    bases = [state.arrays]
    for prefix in _WRAPPERS:
        bare = _without(prefix, bases[-1])
        if bare and len(bare) == len(bases[-1]):
            bases.append(bare)
    own = [s for s, module in sections.items() if s and module in ("", "backbone")]
    for base in bases:
        yield base
        yield {f"backbone.{name}": value for name, value in base.items()}
        for section in own:
            yield {joined(section, name): value for name, value in base.items()}
            yield {
                joined(section, f"backbone.{name}"): value
                for name, value in base.items()
            }


def select(tree: Any, entry: str) -> Any:
    """The part of a checkpoint that a user asked for.

    Args:
        tree: what `read_checkpoint` returned.
        entry: a place in it (`state_dict.ema_model`, or only its end), or `student`,
            `teacher`, `ema`, `imagenet` for the names that trainers commonly use.

    Raises:
        CheckpointError: there is no such entry; lists those there are.
    """
    wanted = (entry, *(n for n in _NETWORKS.get(entry, ()) if n != entry))
    nodes = [(".".join(path), node) for path, node in _nodes(tree) if path]
    for name in wanted:
        for place, node in nodes:
            if place == name or place.endswith(f".{name}"):
                return node
        for place, node in [("", tree), *nodes]:
            head = name.removeprefix(f"{place}.")
            part = _without(f"{head}.", _unwrapped(_arrays(node)))
            if part:
                return part
    found = entries(tree)
    raise CheckpointError(
        f"The checkpoint has no entry {entry!r}.{closest(entry, found)}",
        hint=f"Its entries: {', '.join(found[:_MAX_LISTED]) or 'none'}.",
    )


def entries(tree: Any) -> list[str]:
    """Places of a checkpoint that hold arrays, as `select` takes them."""
    own = [state.entry for state in own_networks(tree)]
    if own:
        return [place for place in own if place]
    return [state.entry for state in state_dicts(tree, {}) if state.entry]


def array_names(tree: Any) -> list[str]:
    """Names of all arrays of a checkpoint, the optimiser's left out."""
    own = [name for state in own_networks(tree) for name in state.arrays]
    return own or [name for s in state_dicts(tree, {}) for name in s.arrays]
