"""The folder that a check reads: its examples, or one error that says what is wrong."""

import dataclasses
import os
import pathlib
import shlex
from collections.abc import Iterator
from typing import Any

from sfda_jax.data.image_files import FileFault
from sfda_jax.errors import ConfigError, DataError
from sfda_jax.registry import closest

_MOST_CANDIDATES = 200  # folders looked into for the right one
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar")


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a dataset's files are looked for.

    Attributes:
        dataset: the dataset's name, as it was given.
        builder_class: what it names.
        folder: the folder that was given.
        variant: the configuration asked for.
        sample: whether a part of the dataset is meant.
    """

    dataset: str
    builder_class: Any
    folder: pathlib.Path
    variant: str
    sample: bool = False

    def command(self, verb: str, folder: pathlib.Path | None = None) -> str:
        """The command line that checks (`check`) or prepares (`prepare`) the folder."""
        where = shlex.quote(os.fspath(folder or self.folder))
        if verb == "check":
            line = f"python -m sfda_jax.main check --dataset={self.dataset} --data_dir="
        else:
            line = f"python -m data_prep {self.dataset} --manual_dir="
        more = f" --variant={shlex.quote(self.variant)}" if self.variant else ""
        if verb == "check" and self.sample:
            more += " --sample"
        return f"{line}{where}{more}"

    def open(self) -> tuple[Any, pathlib.Path, Any]:
        """The configuration, the folder read, and the listing of its examples.

        Raises:
            ConfigError: a dataset that reads no files.
            DataError: no such folder, an empty one, another layout; names the folder
                above or below that has the right one.
        """
        if not self.builder_class.reads_files:
            raise ConfigError(
                f"Dataset {self.dataset!r} draws its own images: there are no files to "
                "check.",
                hint=f"Prepare it: python -m data_prep {self.dataset}",
            )
        _check_folder(self)
        try:
            return _listed(self, self.folder)
        except OSError as error:
            raise DataError(
                f"{error.filename} cannot be read ({error.strerror}).",
                hint="Mend its permissions (chmod -R u+rX), then run: "
                f"{self.command('check')}",
            ) from error
        except DataError as error:
            raise _translated(self, error) from error


def _listed(place: Place, folder: pathlib.Path):
    config, root = place.builder_class.locate(folder, place.variant)
    return config, root, place.builder_class.listing(root, config)


def _check_folder(place: Place) -> None:
    """Refuses what is no folder, or an empty one."""
    folder = place.folder
    if folder.is_dir():
        if any(folder.iterdir()):
            return
        message = f"{folder} is empty."
    elif folder.exists():
        archive = folder.suffix.lower() in _ARCHIVES
        what = "an archive" if archive else "a file"
        message = f"{folder} is {what}, expected a folder of extracted files."
    else:
        beside = folder.parent.iterdir() if folder.parent.is_dir() else ()
        similar = closest(folder.name, [p.name for p in beside if p.is_dir()])
        message = f"{folder} not found: no such folder.{similar}"
    raise DataError(
        f"{message} Expected the files of {place.dataset!r}: {_layout(place)}",
        hint=f"Put them there, then run: {place.command('check')}",
    )


def _layout(place: Place) -> str:
    return " ".join(place.builder_class.MANUAL_DOWNLOAD_INSTRUCTIONS.split())


def _translated(place: Place, error: DataError) -> DataError:
    """The listing's error, with the command that belongs to a check."""
    again = place.command("check")
    if isinstance(error, FileFault) and error.kind != "layout":
        return DataError(error.message, hint=f"{error.mend} Then run: {again}")
    if better := _better_folder(place):
        return DataError(
            f"{place.folder} is not the folder of {place.dataset!r}: {error.message} "
            f"{better} has its layout.",
            hint=f"Run: {place.command('check', better)}",
        )
    if not isinstance(error, FileFault):  # e.g. an unknown variant
        return error
    return DataError(
        f"{place.folder} does not have the layout of {place.dataset!r}: "
        f"{error.message} Expected: {_layout(place)}",
        hint=f"{error.mend} Then run: {again}",
    )


def _better_folder(place: Place) -> pathlib.Path | None:
    """The nearest folder above or below that has the dataset's layout."""
    for candidate in _candidates(place.folder):
        try:
            listing = _listed(place, candidate)[2]
        except (DataError, OSError):
            continue
        if any(listing.splits.values()):
            return candidate
    return None


def _candidates(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """The folders above, then those below: children, then grandchildren."""
    folder = folder.absolute()
    yield from list(folder.parents)[:3]
    level, count = [folder], 0
    for _ in range(2):
        level = [child for parent in level for child in _subfolders(parent)]
        for child in level:
            if count == _MOST_CANDIDATES:
                return
            count += 1
            yield child


def _subfolders(folder: pathlib.Path) -> list[pathlib.Path]:
    try:
        children = sorted(folder.iterdir())
    except OSError:
        return []
    return [p for p in children if not p.name.startswith(".") and p.is_dir()]
