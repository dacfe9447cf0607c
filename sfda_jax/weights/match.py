"""Which layout, which part and which spelling of a file fit a network best."""

import dataclasses
import fnmatch
import functools
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from flax import linen as nn

from sfda_jax.errors import CheckpointError
from sfda_jax.types import ModelState
from sfda_jax.weights.layout import (
    OUTPUTS,
    Entry,
    abstract_state,
    entries_of,
    flatten,
    joined,
    layout_name,
    layouts_of,
)
from sfda_jax.weights.report import matches
from sfda_jax.weights.state_dicts import (
    Arrays,
    left_out,
    own_networks,
    renamings,
    select,
    state_dicts,
)

_MAX_LISTED = 12
OURS = "ours"
"""Name of the layout of our own keys, `params/backbone/conv1/kernel`."""

# Counters of batches, which no network of ours needs.
_COUNTERS = "*num_batches_tracked"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Match:
    """A file's arrays under the names of the layout that fits it best.

    Attributes:
        layout: that layout; None for our own names.
        entries: what it needs.
        arrays: key → array of the file.
        ignored: what else the file holds: optimiser, dropped names.
        origin: where in the file the arrays lie.
        hits: how many of the entries the file has.
        unexpected: how many names no entry has.
    """

    layout: ModuleType | None
    entries: list[Entry]
    arrays: Arrays
    ignored: tuple[str, ...]
    origin: str
    hits: int
    unexpected: int

    @property
    def name(self) -> str:
        """What reports and `--layout` call the layout."""
        return layout_name(self.layout) if self.layout else OURS


@functools.lru_cache(maxsize=32)
def _shapes(model: nn.Module) -> ModelState:
    # Tracing a deep network takes half a second, and a search does it often.
    return abstract_state(model)


def _entries(layout: ModuleType | None, shapes: ModelState) -> list[Entry]:
    return _own_entries(shapes) if layout is None else entries_of(layout, shapes)


def _own_entries(shapes: ModelState) -> list[Entry]:
    return [
        Entry(
            section=collection,
            name="/".join(path),
            shape=leaf.shape,
            collection=collection,
            path=path,
        )
        for collection, leaves in flatten(shapes).items()
        for path, leaf in leaves.items()
    ]


def _matched(
    layout: ModuleType | None, entries: list[Entry], arrays: Arrays, origin: str
) -> Match:
    patterns = [_COUNTERS]
    if layout is not None:
        patterns += [joined(s, p) for s in layout.SECTIONS for p in layout.DROPPED]
    expected = {entry.key for entry in entries}
    dropped = [k for k in arrays if k not in expected and matches(k, patterns)]
    kept = {key: value for key, value in arrays.items() if key not in set(dropped)}
    hits = len(expected & kept.keys())
    return Match(
        layout=layout,
        entries=entries,
        arrays=kept,
        ignored=tuple(dropped),
        origin=origin,
        hits=hits,
        unexpected=len(kept) - hits,
    )


def match(tree: Any, model: nn.Module, *, layout: str = "", entry: str = "") -> Match:
    """The place, the spelling and the layout by which a file fits a network best.

    Args:
        tree: what `read_checkpoint` returned.
        model: the network.
        layout: the only layout to try, or `ours`; empty for all of its kind.
        entry: the only part of the file to look at; see `state_dicts.select`.

    Raises:
        CheckpointError: the file holds no arrays, or several networks that fit alike.
    """
    ignored = left_out(tree)
    part = select(tree, entry) if entry else tree
    shapes = _shapes(model)
    found = [
        _matched(None, _own_entries(shapes), state.arrays, state.entry)
        for state in own_networks(part)
    ]
    if not found:
        layouts = layouts_of(model, "" if layout == OURS else layout)
        found = _published_matches(part, layouts, shapes)
    if not found:
        keys = sorted(map(str, part))[:_MAX_LISTED] if isinstance(part, dict) else []
        names = [s or "names of arrays" for module in layouts for s in module.SECTIONS]
        raise CheckpointError(
            f"The checkpoint holds no arrays ({type(part).__name__}"
            f"{' with the keys ' + ', '.join(keys) if keys else ''}), "
            f"expected {', '.join(dict.fromkeys(names))}.",
            hint="Is it a checkpoint of a network?",
        )
    best = max(found, key=lambda m: (m.hits, -m.unexpected))
    rivals = sorted({m.origin for m in found if m.hits == best.hits})
    fits = 2 * best.hits >= min(len(best.entries), len(best.arrays))
    if fits and len(rivals) > 1:
        raise CheckpointError(
            f"The checkpoint holds several networks that fit: {', '.join(rivals)}.",
            hint="Choose one: python -m sfda_jax.main convert --entry "
            f"{rivals[0] or 'NAME'} … (entry=… from Python).",
        )
    return dataclasses.replace(best, ignored=(*ignored, *best.ignored))


def _published_matches(
    tree: Any, layouts: Sequence[ModuleType], shapes: ModelState
) -> list[Match]:
    found = []
    for layout in layouts:
        try:
            entries = entries_of(layout, shapes)
        except CheckpointError:
            if len(layouts) == 1:
                raise
            continue  # of the same kind of network with other settings
        expected = {entry.key for entry in entries}
        for state in state_dicts(tree, layout.SECTIONS):
            spellings = renamings(state, layout.SECTIONS)
            arrays = max(spellings, key=lambda names: len(expected & names.keys()))
            found.append(_matched(layout, entries, arrays, state.entry))
    return found


def class_count(model: nn.Module, found: Match) -> int | None:
    """How many classes the file's classifier has; None where it has none.

    The classifier is what grows with the network's `num_classes`.
    """
    if not hasattr(model, "num_classes"):
        return None
    larger = _shapes(model.clone(num_classes=model.num_classes + 1))
    counts = set()
    for entry, other in zip(found.entries, _entries(found.layout, larger), strict=True):
        pairs = list(zip(entry.shape, other.shape, strict=True))
        grown = [axis for axis, (a, b) in enumerate(pairs) if a != b]
        pattern = any_outputs(found.layout, entry)
        for key, array in found.arrays.items():
            if grown and fnmatch.fnmatchcase(key, pattern):
                same_rank = array.ndim == len(entry.shape)
                counts |= {array.shape[grown[0]]} if same_rank else set()
    return counts.pop() if len(counts) == 1 else None


def any_outputs(layout: ModuleType | None, entry: Entry) -> str:
    """Pattern of an entry's key, whatever class count its name contains."""
    if layout is None:
        return entry.key
    section, name = layout.published_name(entry.path)
    return joined(section, name.replace(OUTPUTS, "*"))
