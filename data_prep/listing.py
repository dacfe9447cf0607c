"""What a published folder holds: pairs of files per split, and what is amiss."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Mapping

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
    """

    kind: str
    text: str
    id: str = ""
    error: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Listing:
    """All examples of a published folder, by split, in file order.

    Attributes:
        splits: split → its examples.
        findings: files that were left out, and why.
        unlabelled: splits whose examples have no labels.
    """

    splits: Mapping[str, tuple[Pair, ...]]
    findings: tuple[Finding, ...] = ()
    unlabelled: tuple[str, ...] = ()


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
        DataError: two files of one id.
    """
    found: dict[str, pathlib.Path] = {}
    for path in files:
        key = name(path)
        if key in found:
            raise fault(
                f"{found[key]} and {path} share the id {key!r}, expected one file an "
                "id.",
                dataset=dataset,
                mend="Remove or rename one of the two.",
            )
        found[key] = path
    return found


def paired(
    images: Mapping[str, pathlib.Path], labels: Mapping[str, pathlib.Path]
) -> tuple[tuple[Pair, ...], tuple[Finding, ...]]:
    """Examples that have both files, in the images' order; the rest as findings."""
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
        Finding(kind="unpaired", id=key, text=f"{text}: left out.")
        for key, text in alone
    )
    return pairs, findings


def unlabelled(images: Mapping[str, pathlib.Path]) -> tuple[Pair, ...]:
    """Examples without labels, in the images' order."""
    return tuple(Pair(id=key, image=path) for key, path in images.items())
