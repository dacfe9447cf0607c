"""Published lists of training examples: which of a split a system trains on.

The lists are data, `data_prep/splits/lists.toml`: names or a rule, the published count,
and a hash. A user's own list is a text file of names.
"""

import dataclasses
import functools
import hashlib
import importlib.resources
import pathlib
import re
import tomllib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from sfda_jax.errors import ConfigError, DataError
from sfda_jax.registry import closest

_FOLDER = importlib.resources.files("data_prep") / "splits"  # data, not code
_TABLE = "lists.toml"
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_SUFFIX = re.compile(r"\.(png|jpe?g)$", re.IGNORECASE)
_SHOWN = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExampleList:
    """Training examples of one split, by name.

    Attributes:
        name: as recipes call it: an entry of `lists.toml`, or the path of a text file.
        dataset: registry name; empty for a user's list, which fits any.
        split: the split it chooses from; empty for a user's list.
        count: published number of examples.
        names: ids of the examples; None for all of the split but `without`.
        without: ids that a list of all leaves out.
        sha256: hash of the names (`names_hash`); empty where they are not known.
        used_by: systems and tasks.
        source: where the facts are from.
    """

    name: str
    dataset: str = ""
    split: str = ""
    count: int
    names: frozenset[str] | None = None
    without: frozenset[str] = frozenset()
    sha256: str = ""
    used_by: str = ""
    source: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Selection:
    """What a list selects from a prepared split.

    Attributes:
        positions: of the selected examples, ascending: file order stays.
        list: name of the list; empty without one.
        listed: examples that the list names.
        sha256: hash of the listed names; empty where they are not known.
        defects: listed, and left out as published defects.
        absent: listed, and not in this partial copy.
        used_sha256: hash of the names that are used.
    """

    positions: Int[np.ndarray, "_"]
    list: str
    listed: int
    sha256: str
    defects: int
    absent: int
    used_sha256: str

    def record(self) -> dict[str, Any]:
        """The facts as JSON, `used` for the positions."""
        facts = dataclasses.asdict(self)
        return {"used": len(facts.pop("positions")), **facts}


def names_hash(names: Iterable[str]) -> str:
    """SHA-256 of the names, sorted and joined by newlines."""
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()


def describe(domain: str, record: Mapping[str, Any]) -> str:
    """One line on a record of `DataAccess.used_lists`.

    >>> record = {"dataset": "gta5", "split": "train", "list": "", "used": 2}
    >>> describe("source", {**record, "used_sha256": "ab" * 32})
    'source: gta5 train, all 2 prepared examples (sha256 abababababab)'
    """
    where = f"{domain}: {record['dataset']} {record['split']}"
    used = f"(sha256 {record['used_sha256'][:12]})"
    if not record["list"]:
        return f"{where}, all {record['used']} prepared examples {used}"
    published = f" (sha256 {record['sha256'][:12]})" if record["sha256"] else ""
    parts = [f"{where}, list {record['list']}: {record['listed']} listed{published}"]
    if record["defects"]:
        parts.append(f"{record['defects']} published defects left out")
    if record["absent"]:
        parts.append(f"{record['absent']} not in this partial copy")
    return ", ".join([*parts, f"{record['used']} used {used}"])


@functools.cache
def load_list(name: str) -> ExampleList:
    """A list by its name in `lists.toml`, or from a text file (`….txt`) of the user's.

    A text file holds ids or file names, separated by white space; `00010..00019` is a
    run of numbers, a line that begins with `#` a comment.

    Raises:
        ConfigError: unknown name; a file that cannot be read.
        DataError: the committed names are not the published ones any more.
    """
    if name.endswith(".txt"):
        return _users_list(name)
    table = _table()
    if name not in table:
        raise ConfigError(
            f"No list of examples is called {name!r}.{closest(name, table)}",
            hint=f"Known: {', '.join(table)}; or a text file of ids, PATH.txt.",
        )
    entry = dict(table[name])
    names = _listed(entry.pop("names"), name) if "names" in entry else None
    without = frozenset(_listed(entry.pop("without", []), name))
    if names is not None:
        names, without = frozenset(names) - without, frozenset()
        _check_published(name, names, entry)
    return ExampleList(name=name, names=names, without=without, **entry)


def lists_of(dataset: str) -> list[str]:
    """Names of the published lists of a dataset."""
    return [name for name, entry in _table().items() if entry["dataset"] == dataset]


def check_fits(wanted: ExampleList, dataset: str, split: str, *, where: str) -> None:
    """Refuses a list of another dataset or split.

    Args:
        wanted: the list.
        dataset: registry name that the recipe reads.
        split: its split, parts joined by `+` in any order.
        where: the recipe's key, for the error.

    Raises:
        ConfigError: names both, and the dataset's own lists.
    """
    fits = (wanted.dataset, _parts(wanted.split)) == (dataset, _parts(split))
    if wanted.dataset and not fits:
        known = ", ".join(lists_of(dataset)) or "none"
        raise ConfigError(
            f"{where}: list {wanted.name!r} is of {wanted.dataset} {wanted.split}, and "
            f"{dataset} {split} is read.",
            hint=f"Lists of {dataset}: {known}; or a text file of ids, PATH.txt.",
        )


def select_all(ids: Sequence[str]) -> Selection:
    """Every prepared example."""
    return Selection(
        positions=np.arange(len(ids)),
        list="",
        listed=len(ids),
        sha256="",
        defects=0,
        absent=0,
        used_sha256=names_hash(ids),
    )


def select(
    wanted: ExampleList,
    ids: Sequence[str],
    *,
    defects: Collection[str] = (),
    partial: bool = False,
) -> Selection:
    """The listed examples of a prepared split.

    Args:
        wanted: the list.
        ids: of the prepared examples, in file order.
        defects: ids that preparation left out as published defects.
        partial: whether the files are known to be part of the published ones.

    Raises:
        DataError: examples are missing that are no published defects, or all are;
            there are more than published.
    """
    found = set(ids)
    if wanted.names is None:
        used = [i for i, name in enumerate(ids) if name not in wanted.without]
        excused = len(set(defects) - found - wanted.without)
        missing, unexcused = wanted.count - len(used), []
    else:
        used = [i for i, name in enumerate(ids) if name in wanted.names]
        lacking = wanted.names - found
        excused = len(lacking & set(defects))
        missing, unexcused = len(lacking), sorted(lacking - set(defects))
    if missing < 0:
        raise DataError(
            f"List {wanted.name!r} is all {wanted.count} examples of {wanted.dataset} "
            f"{wanted.split}, and {len(used)} are prepared: some are not published.",
            hint="Remove files that the publisher does not have, then prepare again.",
        )
    if (missing > excused and not partial) or not used:
        shown = ", ".join(unexcused[:_SHOWN])
        raise DataError(
            f"List {wanted.name!r} has {wanted.count} examples; {missing - excused} of "
            f"them are neither prepared nor published defects"
            f"{f', for instance {shown}' if shown else ''}.",
            hint="Complete the files, delete the prepared set and prepare it again, or "
            "use the part that is there: --config.data.partial=true",
        )
    left_out = min(excused, missing)
    return Selection(
        positions=np.array(used, np.int64),
        list=wanted.name,
        listed=wanted.count,
        sha256=wanted.sha256,
        defects=left_out,
        absent=missing - left_out,
        used_sha256=names_hash(ids[i] for i in used),
    )


def _parts(split: str) -> frozenset[str]:
    return frozenset(part.strip() for part in split.split("+"))


@functools.cache
def _table() -> Mapping[str, Mapping[str, Any]]:
    return tomllib.loads((_FOLDER / _TABLE).read_text("utf-8"))


def _users_list(path: str) -> ExampleList:
    try:
        text = pathlib.Path(path).expanduser().read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"List {path} cannot be read: {error}.",
            hint="Expected a text file of ids, one a line.",
        ) from error
    names = frozenset(_ids(_words(text), path))
    return ExampleList(
        name=path, count=len(names), names=names, sha256=names_hash(names)
    )


def _listed(items: Iterable[str], where: str) -> list[str]:
    """Ids of a table's items: an id, a range, or `@file` of them beside the table."""
    words: list[str] = []
    for item in items:
        file = item.removeprefix("@")
        words += [item] if file == item else _words((_FOLDER / file).read_text("utf-8"))
    return _ids(words, where)


def _ids(words: Iterable[str], where: str) -> list[str]:
    """Ids of words: an id, a file name, or a range of numbers."""
    found: list[str] = []
    for word in words:
        if match := _RANGE.fullmatch(word):
            first, last = match.groups()
            numbers = range(int(first), int(last) + 1)
            found += [f"{number:0{len(first)}d}" for number in numbers]
        else:
            found.append(_SUFFIX.sub("", word.rsplit("/", 1)[-1]))
    if len(set(found)) != len(found):
        twice = next(name for name in found if found.count(name) > 1)
        raise ConfigError(
            f"{where} names {twice!r} twice.", hint="Name every example once."
        )
    return found


def _words(text: str) -> list[str]:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return " ".join(lines).split()


def _check_published(name: str, names: Collection[str], entry: Mapping) -> None:
    digest = names_hash(names)
    if (len(names), digest) != (entry["count"], entry["sha256"]):
        raise DataError(
            f"List {name!r} holds {len(names)} names of sha256 {digest}, expected "
            f"{entry['count']} of {entry['sha256']}.",
            hint=f"Restore {_TABLE} and the files beside it in data_prep/splits, or "
            "give your own list a name of its own.",
        )
