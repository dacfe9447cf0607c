"""The network that a checkpoint holds, found out from its names and shapes."""

import dataclasses
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from flax import linen as nn

from sfda_jax.errors import CheckpointError
from sfda_jax.registry import check_choice
from sfda_jax.weights.convert import Filled, assemble, compare_match
from sfda_jax.weights.layout import kind_of, layout_names, layouts_of_kind
from sfda_jax.weights.match import Match, class_count, match
from sfda_jax.weights.networks import NETWORKS, Network
from sfda_jax.weights.published_files import PublishedFile
from sfda_jax.weights.report import Report
from sfda_jax.weights.sizes import sizes_of
from sfda_jax.weights.state_dicts import array_names, entries

# The commonest count: where it is the file's, nothing is traced twice.
_PROBE_CLASSES = 19

BACKBONE_HINT = (
    "It is a backbone alone. To start training from it: "
    "--config.stages.NAME.init_from=imagenet:PATH"
)
"""What mends a file without classifier."""


def candidates(
    tree: Any, known: PublishedFile | None, kind: str, layout: str
) -> list[Network]:
    """Networks that the file may hold, the likeliest first.

    Tracing a network takes a second, so names are looked at first: what has neither
    the head's nor at least the backbone's marks is not tried.

    Args:
        tree: the file's content.
        known: what is known about a file of this name.
        kind: the only kind of network; empty for all that segment.
        layout: the only layout; empty for all.

    Raises:
        ConfigError: there is no such layout.
    """
    networks = list(NETWORKS.values())
    if kind:
        networks = [*(n for n in networks if n.kind == kind), Network(kind=kind)]
    elif layout:
        networks = [n for n in networks if layout in layout_names(n.kind)]
        if not networks:
            kinds = dict.fromkeys(n.kind for n in NETWORKS.values())
            check_choice("layout", layout, [n for k in kinds for n in layout_names(k)])
    else:
        networks = [n for n in networks if n.segments]
        if known is not None:
            networks.insert(0, NETWORKS[known.network])
        names = array_names(tree)
        marked = {n: _marks_found(n, names) for n in networks}
        whole = [n for n in networks if marked[n] == len(n.marks)]
        networks = whole or [n for n in networks if marked[n]]
    if layout:
        networks = [n for n in networks if n.layout in ("", layout)]
    return list(dict.fromkeys(networks))


def _marks_found(network: Network, names: Sequence[str]) -> int:
    """How many of a network's marks the file has; none without the backbone's."""
    counts = [0]
    for layout in layouts_of_kind(network.kind, network.layout):
        present = [_is_present(mark, layout, names) for mark in network.marks]
        counts.append(sum(present) if present[0] else 0)
    return max(counts)


def _is_present(
    mark: tuple[str, ...], layout: ModuleType, names: Sequence[str]
) -> bool:
    _, theirs = layout.published_name(mark)
    return any(name.endswith((theirs, "/".join(mark))) for name in names)


@dataclasses.dataclass(frozen=True)
class Search:
    """For the network that a file holds.

    Attributes:
        tree: the file's content.
        layout: the only layout to try; empty for each network's own.
        entry: the part of the file to read.
        waive: names that may differ.
        settings: attributes of the model that the user gives.
    """

    tree: Any
    layout: str
    entry: str
    waive: tuple[str, ...]
    settings: dict[str, Any]

    def best(self, networks: Sequence[Network]) -> Filled:
        """The first network that the file fits without a fault.

        Raises:
            CheckpointError: it fits none; says how it differs from the closest.
        """
        misses = []
        for network in networks:
            model, found = self._sized(network)
            report = compare_match(found, self.waive)
            if not report.faults:
                state = assemble(found, report, model)
                return Filled(model=model, state=state, report=report, found=found)
            misses.append((report, model, found))
        raise self._misfit(misses)

    def _sized(self, network: Network) -> tuple[nn.Module, Match]:
        """The network with the file's class count and sizes, and how it fits."""
        choice = {"layout": self.layout or network.layout, "entry": self.entry}
        model = network.build(**{"num_classes": _PROBE_CLASSES, **self.settings})
        found = match(self.tree, model, **choice)
        shapes = {key: array.shape for key, array in found.arrays.items()}
        sizes = sizes_of(network.kind, found.layout, shapes)
        classes = class_count(model, found)
        if classes is not None:
            sizes["num_classes"] = classes
        model = model.clone(**{**sizes, **self.settings})
        return model, match(self.tree, model, **choice)

    def _misfit(self, misses: list[tuple[Report, nn.Module, Match]]) -> CheckpointError:
        if not misses:
            known = sorted({network.kind for network in NETWORKS.values()})
            places = ", ".join(entries(self.tree)) or "the top level"
            return CheckpointError(
                f"It holds no network that is known here (arrays found in: {places}).",
                hint=f"Pass kind=… (one of {', '.join(known)}) to see what differs.",
            )
        report, model, found = min(misses, key=lambda miss: miss[0].faults)
        kind = kind_of(model)
        hint = f"Pass what the file cannot tell: kind={kind!r} and the settings of its "
        hint += "Model that differ from the published ones; or waive names by pattern."
        if class_count(model, found) is None:
            hint = BACKBONE_HINT
        return CheckpointError(
            f"It is closest to {kind} (layout {report.layout}), but:\n  "
            + "\n  ".join(report.fault_lines()),
            hint=hint,
        )
