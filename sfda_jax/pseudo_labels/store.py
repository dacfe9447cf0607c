"""Label maps of one round on disk: PNG files and a manifest that is written last."""

import concurrent.futures
import hashlib
import itertools
import json
import logging
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float16, UInt8

from sfda_jax.errors import DataError, TrainingError
from sfda_jax.pseudo_labels.map_files import (
    UNREADABLE,
    archive,
    read_archive,
    remove_file,
    replace_file,
    safe_name,
)

MANIFEST = "MANIFEST.json"
_FORMAT = 1
_COMPRESSION = [cv2.IMWRITE_PNG_COMPRESSION, 3]
_LABELS, _SOFT = ".png", ".npz"
_PROGRESS = "PROGRESS-"
_HASHING_THREADS = 8

_log = logging.getLogger(__name__)

Files = dict[str, dict[str, dict[str, Any]]]
"""Name → id → size, hash (and suffix where it is no PNG) of each file written."""


class PseudoLabelStore:
    """Per-image label maps of one round, written once and read by the streams.

    Files are `root/<name>/<id>.png`, single-channel train ids, 255 = rejected, and
    `.npz` for class weights. Each is renamed into place when whole; `finish` writes the
    manifest (sizes, SHA-256, the round's own facts) after all of them, so a round cut
    short is never taken for a complete one. Until then `save_progress` remembers how
    far it has come. Pickles, so that Grain workers read from it.

    Of several processes only the first writes, unless they share the images
    (`shared`); all must see the same folder.

    Args:
        root: folder of the round.
        part: (index of this process, number of processes).
    """

    def __init__(self, root: pathlib.Path | str, *, part: tuple[int, int] = (0, 1)):
        self.root = pathlib.Path(root)
        self.part = part
        self._everyone = False
        self._files: Files = {}

    def __repr__(self) -> str:
        return f"PseudoLabelStore({str(self.root)!r}, part={self.part})"

    def __getstate__(self) -> dict[str, Any]:
        # A reader needs no list of what was written.
        return {**self.__dict__, "_files": {}}

    def shared(self) -> "PseudoLabelStore":
        """The same folder, to which every process adds the maps of its own images.

        `finish` then takes up what the others had written at their last
        `save_progress`; no process may still be writing.
        """
        store = PseudoLabelStore(self.root, part=self.part)
        store._everyone = True
        return store

    def path(self, name: str, example_id: str, suffix: str = _LABELS) -> pathlib.Path:
        """The file of one map, inside `root` whatever the id holds."""
        parts = [safe_name(part) for part in (name, *example_id.split("/"))]
        return self.root.joinpath(*parts[:-1], parts[-1] + suffix)

    def complete(self) -> bool:
        """Whether the round was finished and every file is still as it was written."""
        manifest = self._manifest()
        return manifest is not None and self._intact(manifest["files"])

    def write(
        self, name: str, example_id: str, labels: UInt8[np.ndarray, "h w"]
    ) -> None:
        """Writes one label map.

        Args:
            name: which map of the round, e.g. `pseudo`.
            example_id: the dataset's id; may hold `/`, spaces, any script.
            labels: train ids, 255 where rejected.

        Raises:
            TrainingError: the file cannot be written.
        """
        if self._writes:
            encoded = cv2.imencode(_LABELS, labels, _COMPRESSION)[1].tobytes()
            self._add(name, example_id, _LABELS, encoded)

    def write_soft(
        self, name: str, example_id: str, probs: Float16[np.ndarray, "h w c"]
    ) -> None:
        """Writes one map of class weights, compressed without loss.

        Raises:
            TrainingError: the file cannot be written.
        """
        if self._writes:
            content = archive({"planes": _planes(probs)}, level=1)
            self._add(name, example_id, _SOFT, content)

    def read(self, name: str, example_id: str) -> UInt8[np.ndarray, "h w"]:
        """One label map.

        Raises:
            DataError: the file is missing or damaged.
        """
        path = self.path(name, example_id)
        try:
            encoded = np.frombuffer(path.read_bytes(), np.uint8)
        except OSError as error:
            raise DataError(
                f"No label map {name!r} of {example_id!r}: {path} ({error.strerror}).",
                hint=self._again,
            ) from error
        labels = None
        if encoded.size:
            labels = cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED)
        if labels is None or labels.ndim != 2 or labels.dtype != np.uint8:
            raise DataError(
                f"Label map {path} is damaged: expected an 8-bit grey PNG.",
                hint=self._again,
            )
        return labels

    def read_soft(self, name: str, example_id: str) -> Float16[np.ndarray, "h w c"]:
        """One map of class weights.

        Raises:
            DataError: the file is missing or damaged.
        """
        path = self.path(name, example_id, _SOFT)
        try:
            return _from_planes(read_archive(path)["planes"])
        except FileNotFoundError as error:
            raise DataError(
                f"No soft map {name!r} of {example_id!r}: {path} ({error.strerror}).",
                hint=self._again,
            ) from error
        except UNREADABLE as error:
            raise DataError(
                f"Soft map {path} is damaged: {error}.", hint=self._again
            ) from error

    def save_progress(
        self, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
    ) -> None:
        """Remembers how far this process has come, and the maps it has written so far.

        Args:
            facts: JSON values.
            arrays: what else is needed to go on from here.

        Raises:
            TrainingError: the file cannot be written.
        """
        known = {"part": self.part, "facts": dict(facts), "files": self._files}
        text = json.dumps(known, default=_plain, ensure_ascii=False).encode("utf-8")
        content = {f"array/{name}": value for name, value in arrays.items()}
        content["known"] = np.frombuffer(text, np.uint8)
        path = self._progress_path(self.part[0])
        replace_file(path, archive(content), durable=True)

    def progress(self) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
        """What this process saved last; None where nothing sound is there.

        Sound are a readable file of this very number of processes, and every map that
        it tells of. From then on these maps count as written.
        """
        found = self._saved(self.part)
        if found is None:
            return None
        known, arrays = found
        if not self._intact(known["files"]):
            _log.warning("Label maps in %s have changed: starting over.", self.root)
            return None
        self._files = known["files"]
        return known["facts"], arrays

    def parts(self) -> list[dict[str, Any]]:
        """The facts that every writing process saved last, in the processes' order.

        Raises:
            TrainingError: the progress of a process is missing or damaged.
        """
        return [known["facts"] for known in self._all_saved()]

    def finish(self, meta: Mapping[str, Any]) -> None:
        """Writes the manifest; the round is complete from here on.

        Args:
            meta: what the round must remember, JSON values or NumPy arrays.
        """
        if self.part[0]:
            return
        files = self._files
        if self._everyone and self.part[1] > 1:
            files = _joined([known["files"] for known in self._all_saved()])
        manifest = {"format": _FORMAT, "meta": dict(meta), "files": files}
        text = json.dumps(manifest, default=_plain, ensure_ascii=False, indent=1)
        replace_file(self.root / MANIFEST, text.encode("utf-8"), durable=True)
        for path in self.root.glob(f"{_PROGRESS}*"):
            path.unlink(missing_ok=True)

    @property
    def meta(self) -> Mapping[str, Any]:
        """What `finish` was given, as JSON values.

        Raises:
            DataError: the round was never finished, or its manifest is damaged.
        """
        manifest = self._manifest()
        if manifest is None:
            raise DataError(
                f"No readable {MANIFEST} in {self.root}: the round is not complete.",
                hint=self._again,
            )
        return manifest["meta"]

    def ids(self, name: str) -> list[str]:
        """The ids written under a name, in order of writing."""
        manifest = self._manifest() or {"files": self._files}
        return list(manifest["files"].get(name, ()))

    def _manifest(self) -> dict[str, Any] | None:
        try:
            manifest = json.loads((self.root / MANIFEST).read_text("utf-8"))
            usable = manifest["format"] == _FORMAT
            usable &= isinstance(manifest["meta"], dict)
            usable &= isinstance(manifest["files"], dict)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return manifest if usable else None

    @property
    def _writes(self) -> bool:
        return self._everyone or not self.part[0]

    @property
    def _again(self) -> str:
        return f"Delete {self.root} and run the same command to make it again."

    def _progress_path(self, process: int) -> pathlib.Path:
        return self.root / f"{_PROGRESS}{process:03d}{_SOFT}"

    def _saved(
        self, part: tuple[int, int]
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
        """(what is known, arrays) of one process's last `save_progress`."""
        path = self._progress_path(part[0])
        try:
            content = read_archive(path)
            known = json.loads(content.pop("known").tobytes())
            if tuple(known["part"]) != part:
                _log.warning("%s is of another number of processes: ignored.", path)
                return None
        except FileNotFoundError:
            return None
        except UNREADABLE as error:
            _log.warning("%s is damaged and ignored: %s.", path, error)
            return None
        arrays = {name.removeprefix("array/"): value for name, value in content.items()}
        return known, arrays

    def _all_saved(self) -> list[dict[str, Any]]:
        count = self.part[1] if self._everyone else 1
        found = [self._saved((index, self.part[1])) for index in range(count)]
        if None in found:
            raise TrainingError(
                f"Process {found.index(None)} left no readable record in {self.root}.",
                hint="All processes need the same run directory; run again.",
            )
        return [known for known, _ in found]

    def _add(self, name: str, example_id: str, suffix: str, content: bytes) -> None:
        if not self._files:
            # From here on the folder no longer is what an older manifest says.
            remove_file(self.root / MANIFEST)
        replace_file(self.path(name, example_id, suffix), content)
        entry = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        if suffix != _LABELS:
            entry["suffix"] = suffix
        self._files.setdefault(name, {})[example_id] = entry

    def _intact(self, files: Mapping[str, Any]) -> bool:
        """Whether every file is as it was written; sizes first, they cost little."""
        try:
            listed = [
                (self.path(name, key, entry.get("suffix", _LABELS)), entry)
                for name, entries in files.items()
                for key, entry in entries.items()
            ]
            if any(path.stat().st_size != entry["size"] for path, entry in listed):
                return False
            with concurrent.futures.ThreadPoolExecutor(_HASHING_THREADS) as pool:
                return all(pool.map(_has_hash, listed))
        except (AttributeError, KeyError, TypeError, OSError):
            return False


def interleaved(parts: Sequence[Iterable[Any]]) -> list[Any]:
    """One list of what processes hold of the items they took in turns.

    >>> interleaved([["a", "d"], ["b", "e"], ["c"]])
    ['a', 'b', 'c', 'd', 'e']
    """
    absent = object()
    turns = itertools.zip_longest(*parts, fillvalue=absent)
    return [item for turn in turns for item in turn if item is not absent]


def _joined(parts: Sequence[Files]) -> Files:
    """The files of all processes, as one process would have written them."""
    names = dict.fromkeys(name for files in parts for name in files)
    return {
        name: dict(interleaved([files.get(name, {}).items() for files in parts]))
        for name in names
    }


def _planes(probs: Float16[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "c 2 h w"]:
    """The two bytes of every number apart: half the size, compressed, and faster."""
    height, width, classes = probs.shape
    by_class = np.ascontiguousarray(np.moveaxis(probs, -1, 0), "<f2")
    return np.moveaxis(
        by_class.view(np.uint8).reshape(classes, height, width, 2), -1, 1
    )


def _from_planes(planes: UInt8[np.ndarray, "c 2 h w"]) -> Float16[np.ndarray, "h w c"]:
    halves = np.ascontiguousarray(np.moveaxis(planes, 1, -1)).view("<f2")[..., 0]
    return np.ascontiguousarray(np.moveaxis(halves, 0, -1), np.float16)


def _has_hash(listed: tuple[pathlib.Path, Mapping[str, Any]]) -> bool:
    path, entry = listed
    return hashlib.sha256(path.read_bytes()).hexdigest() == entry["sha256"]


def _plain(value: Any) -> Any:
    """NumPy and JAX values as JSON values."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, pathlib.PurePath):
        return str(value)
    raise TypeError(f"{type(value).__name__} is no JSON value")
