"""MXNet's `.params` files, read and written without MXNet.

A file is a header, a list of arrays and a list of names such as `arg:conv1a_weight`
(little endian throughout). Three layouts of an array exist; MXNet 1.x writes the
newest and still reads the older two, and so does this module.
"""

import io
import math
import os
import pathlib
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from sfda_jax.errors import CheckpointError

SECTIONS = ("arg", "aux")
"""What the optimiser moves, and what it does not (moving statistics)."""

_FILE_MAGIC = 0x112
_MAGIC = {1: 0xF993FAC8, 2: 0xF993FAC9}
"""First word of an array by layout; in layout 0 it is the number of dimensions."""

_DENSE = 0
_CPU = (1, 0)
_MAX_DIMENSIONS = 32
# Shortest record: four words and one dimension; shortest name: its length alone.
_MIN_ARRAY_BYTES, _MIN_NAME_BYTES = 20, 8
_DTYPES = {
    0: np.dtype("<f4"),
    1: np.dtype("<f8"),
    2: np.dtype("<f2"),
    3: np.dtype("u1"),
    4: np.dtype("<i4"),
    5: np.dtype("i1"),
    6: np.dtype("<i8"),
}


class _Reader:
    """A file that never promises more bytes than it has left."""

    def __init__(self, file: io.BufferedReader, total: int):
        self.file = file
        self.left = total

    def bytes(self, count: int) -> bytes:
        if count > self.left:
            raise ValueError(f"{count} bytes are expected where {self.left} are left")
        self.left -= count
        return self.file.read(count)

    def unpack(self, layout: str) -> tuple[int, ...]:
        layout = f"<{layout}"
        return struct.unpack(layout, self.bytes(struct.calcsize(layout)))

    def count(self, min_bytes: int) -> int:
        (count,) = self.unpack("Q")
        if count * min_bytes > self.left:
            raise ValueError(f"{count} entries do not fit in {self.left} bytes")
        return count

    def array(self) -> np.ndarray:
        (word,) = self.unpack("I")
        if word == _MAGIC[2]:
            (storage,) = self.unpack("i")
            if storage != _DENSE:
                raise ValueError(f"an array of sparse storage type {storage}")
        if word in _MAGIC.values():
            (dimensions,), extent = self.unpack("I"), "q"
        else:
            dimensions, extent = word, "I"
        if not 1 <= dimensions <= _MAX_DIMENSIONS:
            raise ValueError(f"an array of {dimensions} dimensions")
        shape = self.unpack(f"{dimensions}{extent}")
        _device, _device_id, kind = self.unpack("3i")
        if min(shape) < 0 or kind not in _DTYPES:
            raise ValueError(f"an array of shape {shape} and element type {kind}")
        dtype = _DTYPES[kind]
        raw = self.bytes(math.prod(shape) * dtype.itemsize)
        native = dtype.newbyteorder("=")
        return np.frombuffer(raw, dtype).reshape(shape).astype(native)


def _read(reader: _Reader) -> dict[str, dict[str, np.ndarray]]:
    magic, _reserved = reader.unpack("2Q")
    if magic != _FILE_MAGIC:
        raise ValueError(f"it starts with {magic:#x}, not {_FILE_MAGIC:#x}")
    arrays = [reader.array() for _ in range(reader.count(_MIN_ARRAY_BYTES))]
    names = [
        reader.bytes(reader.unpack("Q")[0]).decode("utf-8")
        for _ in range(reader.count(_MIN_NAME_BYTES))
    ]
    if len(names) != len(arrays):
        raise ValueError(f"{len(arrays)} arrays have {len(names)} names")
    if reader.left:
        raise ValueError(f"{reader.left} bytes follow its end")
    tree: dict[str, dict[str, np.ndarray]] = {section: {} for section in SECTIONS}
    for key, array in zip(names, arrays, strict=True):
        section, colon, name = key.partition(":")
        if section not in tree or not colon or name in tree[section]:
            raise ValueError(f"the name {key!r} is no new arg:… or aux:…")
        tree[section][name] = array
    return tree


def read_mxnet_file(path: str | os.PathLike[str]) -> dict[str, dict[str, np.ndarray]]:
    """The arrays of a `.params` file: `arg` and `aux` → name → array.

    Args:
        path: file written by MXNet's `save_checkpoint`.

    Raises:
        CheckpointError: missing, damaged, or holding sparse or unnamed arrays.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise CheckpointError(
            f"Checkpoint {path} does not exist.", hint="Check the path."
        )
    try:
        with open(path, "rb") as file:
            return _read(_Reader(file, path.stat().st_size))
    except (ValueError, struct.error, OSError, MemoryError) as error:
        raise CheckpointError(
            f"{path} is no readable MXNet checkpoint ({error}).",
            hint="Download it again, or convert it with the MXNet that wrote it.",
        ) from error


def _array_header(array: np.ndarray, version: int) -> bytes:
    kinds = {dtype: kind for kind, dtype in _DTYPES.items()}
    kind = kinds.get(array.dtype.newbyteorder("<"))
    if kind is None or array.ndim == 0:
        raise CheckpointError(
            f"MXNet files hold no {array.dtype} arrays of shape {array.shape}."
        )
    extent = "I" if version == 0 else "q"
    words = {0: b"", 1: struct.pack("<I", _MAGIC[1]), 2: struct.pack("<I", _MAGIC[2])}
    storage = struct.pack("<i", _DENSE) if version == 2 else b""
    shape = struct.pack(f"<I{array.ndim}{extent}", array.ndim, *array.shape)
    return words[version] + storage + shape + struct.pack("<3i", *_CPU, kind)


def write_mxnet_file(
    path: str | os.PathLike[str],
    tree: Mapping[str, Mapping[str, Any]],
    *,
    version: int = 2,
) -> None:
    """Writes `arg` and `aux` → name → array as a `.params` file.

    The same tree gives the same bytes; an interrupted write leaves no file.

    Args:
        path: file to write; its folder must exist.
        tree: arrays by section and name.
        version: layout of the arrays: 2 as MXNet 1.x writes, 1 and 0 as older ones.

    Raises:
        CheckpointError: the tree holds something else, or the file cannot be written.
    """
    unknown = sorted(set(tree) - set(SECTIONS))
    if unknown:
        raise CheckpointError(
            f"MXNet files hold the sections {', '.join(SECTIONS)}, not "
            f"{', '.join(unknown)}."
        )
    arrays = {
        f"{section}:{name}": np.asarray(value)
        for section in SECTIONS
        for name, value in tree.get(section, {}).items()
    }
    headers = [_array_header(array, version) for array in arrays.values()]
    path = pathlib.Path(path)
    partial = path.with_name(path.name + ".partial")
    try:
        with open(partial, "wb") as file:
            file.write(struct.pack("<3Q", _FILE_MAGIC, 0, len(arrays)))
            for header, array in zip(headers, arrays.values(), strict=True):
                little = array.dtype.newbyteorder("<")
                file.write(header + array.astype(little, copy=False).tobytes())
            file.write(struct.pack("<Q", len(arrays)))
            for name in arrays:
                raw = name.encode()
                file.write(struct.pack("<Q", len(raw)) + raw)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise CheckpointError(f"{path} cannot be written: {error}.") from error
