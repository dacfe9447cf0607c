"""Published label values → train ids, as 256-entry tables."""

import colorsys
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from jaxtyping import UInt8

from sfda_jax.errors import DataError
from sfda_jax.tasks import CLASS_SPACES, ClassSpace
from sfda_jax.types import IGNORE

UNMAPPED = 254
"""Table entry of a value that the dataset never publishes."""

_CITYSCAPES_LABEL_IDS = (
    *(7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33),
)
_SYNTHIA_IDS_16 = (3, 4, 2, 21, 5, 7, 15, 9, 6, 1, 10, 17, 8, 19, 12, 11)

SYNTHIA16_TO_CITYSCAPES19 = tuple(
    CLASS_SPACES["cityscapes19"].names.index(name)
    for name in CLASS_SPACES["synthia16"].names
)
"""Train id of the 16-class space → train id of the 19-class space."""


def lookup_table(
    train_ids: Mapping[int, int], *, ignored: Iterable[int] = ()
) -> UInt8[np.ndarray, "256"]:
    """The table of a value → train id mapping; other values are `UNMAPPED`.

    Args:
        train_ids: published value → train id.
        ignored: published values that become `IGNORE`.
    """
    table = np.full(256, UNMAPPED, np.uint8)
    table[list(ignored)] = IGNORE
    table[list(train_ids)] = list(train_ids.values())
    return table


def _into(space: str, ids: Mapping[int, int]) -> dict[int, int]:
    """Value → train id of a space, from value → train id of the 19 classes."""
    wide = CLASS_SPACES["cityscapes19"].names
    narrow = {name: i for i, name in enumerate(CLASS_SPACES[space].names)}
    return {v: narrow[wide[i]] for v, i in ids.items() if wide[i] in narrow}


_CITYSCAPES = {value: i for i, value in enumerate(_CITYSCAPES_LABEL_IDS)}
_SYNTHIA = {
    **{v: SYNTHIA16_TO_CITYSCAPES19[i] for i, v in enumerate(_SYNTHIA_IDS_16)},
    **{16: 9, 18: 14, 20: 16},  # terrain, truck, train: listed, but never drawn
}
_CAMVID = (10, 2, 5, 0, 1, 8, 7, 4, 13, 11, 12)
_DRIVING_SPACES = ("cityscapes19", "synthia16", "crosscity13")

# dataset → (value → one of the 19 classes, all published values); 255 is the byte that
# the id -1 (licence plate) becomes in an 8-bit file
_DRIVING = {
    "cityscapes": (_CITYSCAPES, (*range(34), 255)),
    "gta5": (_CITYSCAPES, (*range(35), 255)),
    "synthia": (_SYNTHIA, range(23)),
    "train_ids": ({i: i for i in range(19)}, (*range(19), 255)),
}

LABEL_MAPS: Mapping[tuple[str, str], np.ndarray] = {
    **{
        (dataset, space): lookup_table(_into(space, ids), ignored=published)
        for dataset, (ids, published) in _DRIVING.items()
        for space in _DRIVING_SPACES
    },
    ("camvid", "camvid11"): lookup_table({i: i for i in range(11)}, ignored=(11,)),
    # signs hold traffic lights, cars trucks and buses, bicyclists their bicycles
    ("camvid", "cityscapes19"): lookup_table(dict(enumerate(_CAMVID)), ignored=(11,)),
    ("polyps", "polyp2"): lookup_table({0: 0, 255: 1}),
    ("isprs", "isprs6"): lookup_table({i: i for i in range(6)}, ignored=(6,)),
}
"""(dataset, class space) → table.

`train_ids` is the 19-class ids, already mapped; `cityscapes` the label ids, which ACDC,
Dark Zurich and CrossCity publish too.
"""


def as_ranges(values: np.ndarray) -> str:
    """`0–3, 7` of ascending integers."""
    runs = np.split(values, np.flatnonzero(np.diff(values) != 1) + 1)
    return ", ".join(
        str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs
    )


def apply_label_map(
    label: np.ndarray,
    table: UInt8[np.ndarray, "256"],
    *,
    path: str | pathlib.Path,
    dataset: str,
) -> UInt8[np.ndarray, "h w"]:
    """The train ids of a decoded label `[H,W]` of published values.

    Args:
        label: integers as the file holds them.
        table: published value → train id, from `LABEL_MAPS` or `lookup_table`.
        path: the file, for the error.
        dataset: the dataset's name, for the error.

    Raises:
        DataError: a value that the dataset's map does not list.
    """
    if label.size and (label.min() < 0 or label.max() > 255):
        bad = label[(label < 0) | (label > 255)][0]
    else:
        train_ids = table[label]
        strays = train_ids == UNMAPPED
        if not strays.any():
            return train_ids
        bad = label[strays].min()
    known = as_ranges(np.flatnonzero(table != UNMAPPED))
    raise DataError(
        f"{path} holds value {bad}, not in the label map of {dataset!r} (ids {known}).",
        hint="Mend or remove the file. All such files: python -m sfda_jax.main check "
        f"--dataset={dataset} --data_dir=<folder of the files>. Then run: "
        f"python -m data_prep {dataset} --manual_dir=<folder of the files>",
    )


_CLASS_LINE = re.compile(
    r"(?P<values>\d+(\s*,\s*\d+)*)\s+(?P<name>[^#]*[^#\s])(\s+#(?P<rgb>[0-9a-fA-F]{6}))?"
)
_CLASS_FORM = "Expected lines like `0 road #804080`: value(s), name, optional colour."


def read_class_file(
    path: str | pathlib.Path,
) -> tuple[ClassSpace, UInt8[np.ndarray, "256"]]:
    """The class space of a class file, and the table from label values to train ids.

    One class a line, `value name #rrggbb`: the value(s) of the label files, the name
    (blanks allowed), the colour (optional). Classes get train ids 0, 1, … in the order
    of the lines. The name `ignore` lists values that nothing may count; 255 is ignored
    anyway unless a class claims it. Empty lines and lines that start with `#` are
    skipped:

        0      road           #804080
        1      pavement
        4,5    traffic light  #faaa1e
        11     ignore

    Raises:
        DataError: missing file, a line of another form, a value or name used twice, no
            class, more than 253 classes.
    """
    path = pathlib.Path(path)
    names, colours, train_ids, ignored = [], [], {}, []
    for where, match in _class_lines(path):
        values = [int(value) for value in match["values"].split(",")]
        taken = [v for v in values if v > 255 or v in train_ids or v in ignored]
        if taken:
            raise DataError(
                f"{where}: value {taken[0]} is used twice or above 255.",
                hint=_CLASS_FORM,
            )
        if match["name"] == "ignore":
            ignored += values
            continue
        if match["name"] in names:
            raise DataError(
                f"{where}: the name is used twice.",
                hint="Put all values of a class on one line: `4,5 traffic light`.",
            )
        train_ids.update(dict.fromkeys(values, len(names)))
        names.append(match["name"])
        colours.append(match["rgb"])
    if not 1 <= len(names) < UNMAPPED:
        raise DataError(
            f"{path} names {len(names)} classes, not 1–253.", hint=_CLASS_FORM
        )
    space = ClassSpace(
        name=path.resolve().parent.name,
        names=tuple(names),
        palette=_palette(names, colours),
        subsets={f"mIoU{len(names)}": tuple(range(len(names)))},
    )
    return space, lookup_table(train_ids, ignored={*ignored, 255} - set(train_ids))


def _class_lines(path: pathlib.Path) -> Iterator[tuple[str, re.Match]]:
    """(where, parsed line) of every line that names a class."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise DataError(f"{path} not found.", hint=_CLASS_FORM) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text.", hint=_CLASS_FORM) from error
    for number, line in enumerate(lines, 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        where = f"{path}, line {number}: {line!r}"
        match = _CLASS_LINE.fullmatch(line)
        if not match:
            raise DataError(f"{where} is not a class.", hint=_CLASS_FORM)
        yield where, match


def _palette(names: list[str], colours: list[str | None]) -> np.ndarray:
    """Given colours; else the field's own for that name; else evenly spread hues."""
    known = {
        name: colour
        for space in reversed(CLASS_SPACES.values())
        for name, colour in zip(space.names, space.palette, strict=True)
    }
    rows = []
    for i, (name, colour) in enumerate(zip(names, colours, strict=True)):
        if colour:
            rows.append(tuple(bytes.fromhex(colour)))
        elif name.lower() in known:
            rows.append(known[name.lower()])
        else:
            hue = (i * 0.61803) % 1.0  # golden-ratio steps: neighbours stay apart
            rgb = colorsys.hsv_to_rgb(hue, 0.65, 0.9)
            rows.append(tuple(round(255 * channel) for channel in rgb))
    return np.array(rows, np.uint8)
