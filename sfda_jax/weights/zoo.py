"""A network from a checkpoint alone, and the published ones that are known."""

import dataclasses
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

from flax import linen as nn
from jaxtyping import PyTree

from sfda_jax.errors import CheckpointError
from sfda_jax.registry import check_choice, list_names
from sfda_jax.weights.checkpoint_file import read_checkpoint
from sfda_jax.weights.convert import Filled
from sfda_jax.weights.match import OURS
from sfda_jax.weights.networks import NETWORKS
from sfda_jax.weights.orbax_folder import description
from sfda_jax.weights.published_files import FILES, UNKNOWN, check_hash, known_file
from sfda_jax.weights.search import BACKBONE_HINT, Search, candidates


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """One row of `list_models`.

    Attributes:
        name: file name; `*` stands for the part that differs within a family.
        network: kind of network.
        num_classes: of the file's classifier.
        parameters: millions of trained numbers, with 19 classes (SimCLR: 1000).
        gflops: of one 512x1024 image, likewise.
        layout: how the file names its arrays.
        holds: what was trained on what.
        licence: as the authors state it.
        sha256: how the hash starts, or `unknown`.
    """

    name: str
    network: str
    num_classes: int
    parameters: float
    gflops: int
    layout: str
    holds: str
    licence: str
    sha256: str


def list_models() -> list[ModelInfo]:
    """The published checkpoints that `load_model` and `init_from` read."""
    return [
        ModelInfo(
            name=file.name,
            network=file.network + (" (backbone)" if file.backbone_only else ""),
            num_classes=file.num_classes,
            parameters=NETWORKS[file.network].parameters,
            gflops=NETWORKS[file.network].gflops,
            layout=file.layout,
            holds=file.holds,
            licence=file.licence,
            sha256=file.sha256 or UNKNOWN,
        )
        for file in FILES
    ]


def format_models(rows: Iterable[ModelInfo]) -> str:
    """The rows as a table."""
    head = ("file", "network", "classes", "M param", "GFLOP", "layout", "SHA-256")
    head = (*head, "licence", "holds")
    table = [head] + [
        (
            row.name,
            row.network,
            str(row.num_classes),
            f"{row.parameters:.2f}",
            str(row.gflops),
            row.layout,
            row.sha256,
            row.licence,
            row.holds,
        )
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        for line in table
    ]
    note = "M param, GFLOP: of the whole network, 19 classes; one 512x1024 image. No "
    note += "file comes with this package."
    return "\n".join([*(line.rstrip() for line in lines), note])


def load_model(
    path: str | os.PathLike[str],
    *,
    kind: str = "",
    layout: str = "",
    entry: str = "",
    waive: Sequence[str] = (),
    **settings: Any,
) -> tuple[nn.Module, PyTree]:
    """A network and its variables: `model.apply(variables, normalised_images)`.

    The kind of network, its class count and its sizes come from the file, as far as a
    published network has them; `list_models` names those.

    Args:
        path: a file of any known format, or a folder that `convert` wrote.
        kind: module of `sfda_jax.models`, where the file fits several or none.
        layout: how the file names its arrays; found out by default.
        entry: the part of the file to read where it holds several networks.
        waive: shell patterns of names that may differ.
        settings: attributes of the model (sizes) that the file cannot tell.

    Raises:
        CheckpointError: unreadable, of no known network, or not as published; the
            message says what to pass.
    """
    opened = open_model(
        path, kind=kind, layout=layout, entry=entry, waive=waive, **settings
    )
    return opened.model, opened.state.variables


def open_model(
    path: str | os.PathLike[str],
    *,
    kind: str = "",
    layout: str = "",
    entry: str = "",
    waive: Sequence[str] = (),
    **settings: Any,
) -> Filled:
    """`load_model` with the report and the file's own arrays."""
    path = pathlib.Path(path)
    if kind:
        check_choice("kind", kind, list_names("models"))
    known = known_file(path)
    if not path.exists() and known:
        raise CheckpointError(
            f"{path} does not exist.",
            hint="It is a published file, and none comes with this package: download "
            "it from its authors' page.",
        )
    check_hash(path)
    tree = read_checkpoint(path)
    described = description(path) if path.is_dir() else {}
    if described:
        settings = {**described["settings"], **settings}
        kind = kind or described["kind"]
    layout = "" if layout == OURS else layout
    search = Search(tree, layout, entry, tuple(waive), settings)
    try:
        if known and known.backbone_only:
            raise CheckpointError("It has no classifier.", hint=BACKBONE_HINT)
        return search.best(candidates(tree, known, kind, layout))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error.message}", hint=error.hint) from error
