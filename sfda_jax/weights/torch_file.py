"""PyTorch's checkpoint files, read and written without PyTorch and without trust.

A `.pth` file is a pickle whose tensors point into raw storages;
`restricted_pickle` says what such a pickle may ask for.
"""

import io
import os
import pathlib
import struct
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from sfda_jax.errors import CheckpointError
from sfda_jax.weights.restricted_pickle import DAMAGE, STORAGES, Unpickler, own

# The legacy layout starts with a pickle of this number alone.
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PICKLED = b"\x8a\x0a" + _LEGACY_MAGIC.to_bytes(10, "little")
_LEGACY_START = 32
_LEGACY_PROTOCOL = 1001


def is_legacy(head: bytes) -> bool:
    """Whether a file that starts like this is in PyTorch's legacy layout."""
    return head[:1] == b"\x80" and _LEGACY_PICKLED in head[:_LEGACY_START]


def _read_zip(file: io.BufferedIOBase) -> Any:
    with zipfile.ZipFile(file) as archive:
        found = [n for n in archive.namelist() if n.endswith("/data.pkl")]
        if len(found) != 1:
            raise ValueError(f"holds {len(found)} data.pkl, expected one")
        root = found[0].removesuffix("data.pkl")
        if root + "byteorder" in archive.namelist():
            order = archive.read(root + "byteorder")
            if order != b"little":
                raise ValueError(f"byte order {order!r}")
        storages: dict[str, np.ndarray] = {}

        def load_storage(dtype, key, count):
            if key not in storages:
                raw = archive.read(f"{root}data/{key}")
                storages[key] = np.frombuffer(raw, dtype, count)
            return storages[key]

        return Unpickler(io.BytesIO(archive.read(found[0])), load_storage).load()


def _read_legacy(file: io.BufferedIOBase, total: int) -> Any:
    storages: dict[str, np.ndarray] = {}

    def load_storage(dtype, key, count):
        if key not in storages:
            if count * dtype.itemsize > total:
                raise ValueError(f"storage {key} is larger than the file")
            storages[key] = np.zeros(count, dtype)
        return storages[key]

    if Unpickler(file).load() != _LEGACY_MAGIC:
        raise ValueError("unknown magic number")
    if Unpickler(file).load() != _LEGACY_PROTOCOL:
        raise ValueError("unknown protocol")
    if not Unpickler(file).load().get("little_endian", True):
        raise ValueError("big-endian file")
    tree = Unpickler(file, load_storage).load()
    for key in Unpickler(file).load():
        storage = storages[str(key)]
        (count,) = struct.unpack("<q", file.read(8))
        if count != storage.size:
            raise ValueError(f"storage {key} has {count} elements, not {storage.size}")
        storage[:] = np.frombuffer(file.read(storage.nbytes), storage.dtype, count)
    return tree


def read_torch_file(path: str | os.PathLike[str]) -> Any:
    """The object in a `.pth` file, tensors as NumPy arrays, mappings as dicts.

    Reads the zip layout and the older legacy layout. bfloat16 arrives as
    `ml_dtypes.bfloat16`.

    Args:
        path: file written by `torch.save`.

    Raises:
        CheckpointError: missing, damaged, or holding more than tensors and plain
            containers (the refused name is in the message).
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise CheckpointError(
            f"Checkpoint {path} does not exist.", hint="Check the path."
        )
    try:
        with open(path, "rb") as file:
            is_zip = file.read(4) == b"PK\x03\x04"
            file.seek(0)
            if is_zip:
                return own(_read_zip(file))
            return own(_read_legacy(file, path.stat().st_size))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error.message}", hint=error.hint) from error
    except DAMAGE as error:
        raise CheckpointError(
            f"{path} is no readable PyTorch checkpoint ({error}).",
            hint="Download or save it again.",
        ) from error


class _Pickle:
    """Pickle opcodes of a tree of arrays, in the words `torch.load` understands."""

    def __init__(self):
        self.out = bytearray(b"\x80\x02")
        self.storages: list[np.ndarray] = []

    def name(self, module: str, attribute: str):
        self.out += f"c{module}\n{attribute}\n".encode()

    def ordered_dict(self):
        self.name("collections", "OrderedDict")
        self.out += b")R"

    def array(self, array: np.ndarray):
        kinds = {dtype: name for name, dtype in STORAGES.items()}
        if array.dtype not in kinds:
            raise CheckpointError(f"PyTorch files hold no {array.dtype} arrays.")
        array = np.asarray(array, order="C")
        stride = tuple(s // array.itemsize for s in array.strides)
        self.name("torch._utils", "_rebuild_tensor_v2")
        self.out += b"(("
        self.value("storage")
        self.name("torch", kinds[array.dtype])
        for part in (str(len(self.storages)), "cpu", array.size):
            self.value(part)
        self.out += b"tQ"
        for part in (0, array.shape, stride, False):
            self.value(part)
        self.ordered_dict()
        self.out += b"tR"
        self.storages.append(array)

    def value(self, value: Any):
        if isinstance(value, (np.ndarray, np.generic)):
            self.array(np.asarray(value))
        elif value is None or isinstance(value, bool):
            self.out += {None: b"N", True: b"\x88", False: b"\x89"}[value]
        elif isinstance(value, int):
            raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            self.out += b"\x8a" + bytes([len(raw)]) + raw
        elif isinstance(value, float):
            self.out += b"G" + struct.pack(">d", value)
        elif isinstance(value, str):
            raw = value.encode()
            self.out += b"X" + struct.pack("<I", len(raw)) + raw
        elif isinstance(value, Mapping):
            self.ordered_dict()
            self.out += b"("
            for key, item in value.items():
                self.value(key)
                self.value(item)
            self.out += b"u"
        elif isinstance(value, (list, tuple)):
            self.out += b"]" if isinstance(value, list) else b""
            self.out += b"("
            for item in value:
                self.value(item)
            self.out += b"e" if isinstance(value, list) else b"t"
        else:
            raise CheckpointError(f"PyTorch files hold no {type(value).__name__}.")


def write_torch_file(path: str | os.PathLike[str], tree: Any) -> None:
    """Writes a tree of arrays as a `.pth` file for `torch.load(weights_only=True)`.

    The same tree gives the same bytes; an interrupted write leaves no file.

    Args:
        path: file to write; its folder must exist.
        tree: dicts, lists, tuples, strings, numbers and NumPy arrays.

    Raises:
        CheckpointError: the tree holds something else, or the file cannot be written.
    """
    path = pathlib.Path(path)
    body = _Pickle()
    body.value(tree)
    records = {
        "data.pkl": bytes(body.out) + b".",
        "byteorder": b"little",
        **{f"data/{i}": array for i, array in enumerate(body.storages)},
        "version": b"3\n",
    }
    partial = path.with_name(path.name + ".partial")
    try:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
            for name, data in records.items():
                raw = data if isinstance(data, bytes) else data.tobytes()
                archive.writestr(zipfile.ZipInfo(f"archive/{name}"), raw)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise CheckpointError(f"{path} cannot be written: {error}.") from error
