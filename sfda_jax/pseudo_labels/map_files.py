"""Files of a label store: names, whole-or-nothing writing, archives of arrays."""

import errno
import hashlib
import io
import os
import pathlib
import uuid
import zipfile
import zlib
from collections.abc import Callable, Mapping

import numpy as np

from sfda_jax.errors import TrainingError

UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What reading a damaged archive may raise."""

_ESCAPED = frozenset('%/\\:*?"<>|')
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT)


def safe_name(part: str) -> str:
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


def replace_file(path: pathlib.Path, content: bytes, *, durable: bool = False) -> None:
    """Atomic write: a reader sees the old file or the whole new one.

    Args:
        path: the file; its folder is made.
        content: all of it.
        durable: also survives a power cut from here on.

    Raises:
        TrainingError: it cannot be written.
    """
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")

    def put() -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                file.write(content)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise

    _guarded(path, put)


def remove_file(path: pathlib.Path) -> None:
    """Removes a file if it is there.

    Raises:
        TrainingError: it cannot be removed.
    """
    _guarded(path, lambda: path.unlink(missing_ok=True))


def archive(arrays: Mapping[str, np.ndarray], *, level: int = 0) -> bytes:
    """An .npz file; the same arrays always give the same bytes.

    Args:
        arrays: by name.
        level: of compression, 0 to 9.
    """
    method = zipfile.ZIP_DEFLATED if level else zipfile.ZIP_STORED
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method, compresslevel=level or None) as members:
        for name, array in arrays.items():
            # Opened by name, a member bears no date.
            with members.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asarray(array), allow_pickle=False)
    return buffer.getvalue()


def read_archive(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file; raises one of `UNREADABLE` unless it is whole."""
    with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as members:
        return {name: members[name] for name in members.files}


def _guarded(path: pathlib.Path, action: Callable[[], None]) -> None:
    try:
        action()
    except OSError as error:
        hint = "Check that the run directory is writable."
        if error.errno in _FULL_DISK:
            hint = "Free disk space, then run the same command to go on."
        raise TrainingError(
            f"Cannot write label map {path}: {error.strerror or error}.", hint=hint
        ) from error
