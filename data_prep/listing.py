"""What a published folder holds: pairs of files per split, and what is amiss."""

import dataclasses
import pathlib
from collections.abc import Callable, Container, Iterable, Mapping

from data_prep.reading import IMAGE_SUFFIXES, fault


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair:
    """One example as published.

    Attributes:
        id: its name in the prepared set, unique within its split.
        image: the image file.
        label: the label file; None where the example has no label.
        box: (top, left, height, width) of the part that this example is; None is all.
    """

    id: str
    image: pathlib.Path
    label: pathlib.Path | None = None
    box: tuple[int, int, int, int] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that the user should know about the published files.

    Attributes:
        kind: a word that groups findings: `unpaired`, `defect`, `count`, `size`, …
        text: one sentence, the file named in it.
        id: of the example.
        error: False for what is listed, left out and lived with.
        pair: the files, where both are there.
    """

    kind: str
    text: str
    id: str = ""
    error: bool = False
    pair: Pair | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Listing:
    """All examples of a published folder, by split, in file order.

    Attributes:
        splits: split → its examples.
        findings: files that were left out, and why.
        unlabelled: splits whose examples have no labels.
        published: counts that hold for this packaging instead of the builder's.
    """

    splits: Mapping[str, tuple[Pair, ...]]
    findings: tuple[Finding, ...] = ()
    unlabelled: tuple[str, ...] = ()
    published: Mapping[str, int] = dataclasses.field(default_factory=dict)


def sorted_files(
    folder: pathlib.Path,
    *,
    dataset: str,
    pattern: str = "*",
    suffixes: tuple[str, ...] = IMAGE_SUFFIXES,
) -> list[pathlib.Path]:
    """Files of a folder that match a glob pattern, sorted by relative path.

    Raises:
        DataError: missing folder, no such file in it.
    """
    if not folder.is_dir():
        raise fault(
            f"{folder} not found: no such folder.",
            dataset=dataset,
            mend=f"Expected the layout of {dataset!r}, see data_prep/{dataset}.py.",
        )
    files = sorted(
        path
        for path in folder.glob(pattern)
        if path.suffix.lower() in suffixes and not path.name.startswith(".")
    )
    if not files:
        raise fault(
            f"{folder} holds no image ({pattern}, {'/'.join(suffixes)}).",
            dataset=dataset,
            mend="Put the images there.",
        )
    return files


def unzipped(root: pathlib.Path, name: str) -> list[pathlib.Path]:
    """The folders of that name: the root's own, and those of archives beside it."""
    folders = (root / name, *sorted(root.glob(f"*/{name}")))
    return [folder for folder in folders if folder.is_dir()]


def stem_of(path: pathlib.Path) -> str:
    """The file's name without its suffix: the id of most datasets."""
    return path.stem


def by_id(
    files: Iterable[pathlib.Path],
    name: Callable[[pathlib.Path], str] = stem_of,
    *,
    dataset: str,
) -> dict[str, pathlib.Path]:
    """Id → file, in the order given.

    Args:
        files: of one split.
        name: the id in a file's name.
        dataset: for the error.

    Raises:
        DataError: two files of one id; all such ids are named.
    """
    found: dict[str, pathlib.Path] = {}
    twice: dict[str, pathlib.Path] = {}
    for path in files:
        key = name(path)
        (twice if key in found else found)[key] = path
    if twice:
        first, *others = twice
        also = f" So do the files of {', '.join(others)}." if others else ""
        raise fault(
            f"{found[first]} and {twice[first]} share the id {first!r}, expected one "
            f"file an id.{also}",
            dataset=dataset,
            mend="Remove or rename one of the two.",
            kind="two files of one id",
        )
    return found


def paired(
    images: Mapping[str, pathlib.Path],
    labels: Mapping[str, pathlib.Path],
    *,
    known: Container[str] = (),
) -> tuple[tuple[Pair, ...], tuple[Finding, ...]]:
    """Examples that have both files, in the images' order; the rest as findings.

    Args:
        images: id → file.
        labels: id → file.
        known: ids that were published without the other file: defects.
    """
    pairs = tuple(
        Pair(id=key, image=path, label=labels[key])
        for key, path in images.items()
        if key in labels
    )
    alone = [
        *((k, f"{p} has no label") for k, p in images.items() if k not in labels),
        *((k, f"{p} has no image") for k, p in labels.items() if k not in images),
    ]
    findings = tuple(
        Finding(
            kind="defect" if key in known else "unpaired",
            id=key,
            text=f"{text}{', as published' if key in known else ''}: left out.",
        )
        for key, text in alone
    )
    return pairs, findings


def unlabelled(images: Mapping[str, pathlib.Path]) -> tuple[Pair, ...]:
    """Examples without labels, in the images' order."""
    return tuple(Pair(id=key, image=path) for key, path in images.items())
