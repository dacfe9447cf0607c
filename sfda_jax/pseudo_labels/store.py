"""Label maps of one round on disk: PNG files and a manifest that is written last."""

import errno
import hashlib
import json
import os
import pathlib
import uuid
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from sfda_jax.errors import DataError, TrainingError

MANIFEST = "MANIFEST.json"
_FORMAT = 1
_ESCAPED = frozenset('%/\\:*?"<>|')
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
_COMPRESSION = [cv2.IMWRITE_PNG_COMPRESSION, 3]


class PseudoLabelStore:
    """Per-image label maps of one round, written once and read by the streams.

    Files are `root/<name>/<id>.png`, single-channel train ids, 255 = rejected. Each is
    renamed into place when whole; `finish` writes the manifest (sizes, SHA-256, the
    round's own facts) after all of them, so a round cut short is never taken for a
    complete one. Pickles, so that Grain workers read from it.

    Args:
        root: folder of the round.
        writable: False in the processes of a multi-host run that only read; their
            `write` and `finish` do nothing.
    """

    def __init__(self, root: pathlib.Path | str, *, writable: bool = True):
        self.root = pathlib.Path(root)
        self.writable = writable
        self._files: dict[str, dict[str, dict[str, Any]]] = {}

    def __repr__(self) -> str:
        return f"PseudoLabelStore({str(self.root)!r}, writable={self.writable})"

    def __getstate__(self) -> dict[str, Any]:
        # A reader needs no list of what was written.
        return {"root": self.root, "writable": self.writable, "_files": {}}

    def path(self, name: str, example_id: str) -> pathlib.Path:
        """The file of one label map, inside `root` whatever the id holds."""
        parts = [_safe(part) for part in (name, *example_id.split("/"))]
        return self.root.joinpath(*parts[:-1], parts[-1] + ".png")

    def complete(self) -> bool:
        """Whether the round was finished and every file is still as it was written."""
        manifest = self._manifest()
        if manifest is None:
            return False
        try:
            return all(
                self._intact(self.path(name, example_id), entry)
                for name, entries in manifest["files"].items()
                for example_id, entry in entries.items()
            )
        except (AttributeError, KeyError, TypeError, OSError):
            return False

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
        if not self.writable:
            return
        if not self._files:
            # From here on the folder no longer is what an older manifest says.
            self._guarded(self.root / MANIFEST, lambda path: path.unlink(True))
        encoded = cv2.imencode(".png", labels, _COMPRESSION)[1].tobytes()
        self._replace(self.path(name, example_id), encoded)
        self._files.setdefault(name, {})[example_id] = {
            "size": len(encoded),
            "sha256": hashlib.sha256(encoded).hexdigest(),
        }

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
                hint=f"Delete {self.root} and run the same command to make it again.",
            ) from error
        labels = None
        if encoded.size:
            labels = cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED)
        if labels is None or labels.ndim != 2 or labels.dtype != np.uint8:
            raise DataError(
                f"Label map {path} is damaged: expected an 8-bit grey PNG.",
                hint=f"Delete {self.root} and run the same command to make it again.",
            )
        return labels

    def finish(self, meta: Mapping[str, Any]) -> None:
        """Writes the manifest; the round is complete from here on.

        Args:
            meta: what the round must remember, JSON values or NumPy arrays.
        """
        if not self.writable:
            return
        manifest = {"format": _FORMAT, "meta": dict(meta), "files": self._files}
        text = json.dumps(manifest, default=_plain, ensure_ascii=False, indent=1)
        self._replace(self.root / MANIFEST, text.encode("utf-8"), durable=True)

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
                hint=f"Delete {self.root} and run the same command to make it again.",
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

    def _intact(self, path: pathlib.Path, entry: Mapping[str, Any]) -> bool:
        if path.stat().st_size != entry["size"]:
            return False
        return hashlib.sha256(path.read_bytes()).hexdigest() == entry["sha256"]

    def _replace(self, path: pathlib.Path, content: bytes, *, durable: bool = False):
        """Atomic write: a reader sees the old file or the whole new one."""
        temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")

        def put(target: pathlib.Path) -> None:
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                with open(temporary, "wb") as file:
                    file.write(content)
                    if durable:
                        file.flush()
                        os.fsync(file.fileno())
                os.replace(temporary, target)
            except OSError:
                temporary.unlink(missing_ok=True)
                raise

        self._guarded(path, put)

    def _guarded(self, path: pathlib.Path, action: Any) -> None:
        try:
            action(path)
        except OSError as error:
            hint = "Check that the run directory is writable."
            if error.errno in _FULL_DISK:
                hint = "Free disk space, then run the same command to go on."
            raise TrainingError(
                f"Cannot write label map {path}: {error.strerror or error}.", hint=hint
            ) from error


def _safe(part: str) -> str:
    """A path component without its special meanings; different parts stay different."""
    escaped = "".join(
        "".join(f"%{byte:02X}" for byte in c.encode("utf-8", "surrogatepass"))
        if c in _ESCAPED or ord(c) < 32 or 0xD800 <= ord(c) < 0xE000
        else c
        for c in part
    )
    if escaped in ("", ".", ".."):
        escaped = "%" + escaped.replace(".", "%2E")
    encoded = escaped.encode("utf-8")
    if len(encoded) > 200:  # file systems stop at 255 bytes
        digest = hashlib.sha256(encoded).hexdigest()[:32]
        return encoded[:160].decode("utf-8", "ignore") + "%" + digest
    return escaped


def _plain(value: Any) -> Any:
    """NumPy and JAX values as JSON values."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, pathlib.PurePath):
        return str(value)
    raise TypeError(f"{type(value).__name__} is no JSON value")
