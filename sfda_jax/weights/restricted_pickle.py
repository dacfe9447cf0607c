"""Pickles read without trust: containers, arrays and nothing that runs.

A pickle is a program. Here only the few names that tensors, NumPy arrays and plain
containers need are honoured, each by a stand-in of ours; a file that asks for
anything else is refused before anything of it is built.
"""

import collections
import io
import math
import pathlib
import pickle
import re
import struct
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from sfda_jax.errors import CheckpointError

STORAGES = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}
"""Element types of PyTorch's storages."""

DAMAGE = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    struct.error,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    NotImplementedError,
    UnicodeDecodeError,
    MemoryError,
    OverflowError,
    RecursionError,
)
"""What a damaged file makes pickle, struct and zipfile raise."""


# The stand-ins. Instances have no attributes and classes take their state through a
# method, so that a pickle can alter neither.
class _Dict(dict):
    """Configurations and counters, kept as plain dicts."""

    def __setstate__(self, state):
        pass


class _NumpyDtype:
    __slots__ = ("dtype",)

    def __init__(self, name, *_copy):
        if not re.fullmatch(r"\|?[?biufc]\d{0,2}", name):
            raise ValueError(f"array of {name!r}")
        self.dtype = np.dtype(name)

    def __setstate__(self, state):
        self.dtype = self.dtype.newbyteorder(state[1])


class _NumpyArray:
    __slots__ = ("array",)

    def __setstate__(self, state):
        _version, shape, dtype, columns_first, raw = state
        self.array = _numpy_array(raw, dtype, shape, "F" if columns_first else "C")


def _numpy_array(raw, dtype, shape, order):
    raw = raw.encode("latin1") if isinstance(raw, str) else bytes(raw)
    if math.prod(shape) * dtype.dtype.itemsize != len(raw):
        raise ValueError(f"array of shape {tuple(shape)} in {len(raw)} bytes")
    return np.frombuffer(raw, dtype.dtype).reshape(shape, order=order)


class _RebuildTensor:
    __slots__ = ()

    def __call__(self, storage, offset, size, stride, *_unused):
        return _tensor(storage, int(offset), tuple(size), tuple(stride))


class _RebuildParameter:
    __slots__ = ()

    def __call__(self, data, *_unused):
        return data


class _RebuildArray:
    __slots__ = ()

    def __call__(self, *_unused):
        return _NumpyArray()


class _RebuildScalar:
    __slots__ = ()

    def __call__(self, dtype, raw):
        return _numpy_array(raw, dtype, (), "C")[()]


class _FromBuffer:
    __slots__ = ()

    def __call__(self, raw, dtype, shape, order):
        return _numpy_array(raw, dtype, shape, order)


class _Encode:
    __slots__ = ()

    def __call__(self, text, _encoding):
        return text.encode("latin1")


class _EmptyBytes:
    __slots__ = ()

    def __call__(self):
        return b""


class _Marker:
    __slots__ = ()


_NAMES = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("collections", "Counter"): _Dict,
    ("yacs.config", "CfgNode"): _Dict,
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
    ("__builtin__", "bytes"): _EmptyBytes(),
    ("_codecs", "encode"): _Encode(),
    ("torch", "Size"): tuple,
    ("torch._utils", "_rebuild_tensor"): _RebuildTensor(),
    ("torch._utils", "_rebuild_tensor_v2"): _RebuildTensor(),
    ("torch._utils", "_rebuild_parameter"): _RebuildParameter(),
    ("numpy", "dtype"): _NumpyDtype,
    ("numpy", "ndarray"): _Marker(),
    **{
        (f"numpy.{core}.{module}", name): stand_in
        for core in ("core", "_core")
        for module, name, stand_in in (
            ("multiarray", "_reconstruct", _RebuildArray()),
            ("multiarray", "scalar", _RebuildScalar()),
            ("numeric", "_frombuffer", _FromBuffer()),
        )
    },
}


def _no_storage(dtype, key, count):
    raise ValueError("a tensor's storage where none may be")


class Unpickler(pickle.Unpickler):
    """Builds plain containers and arrays.

    Args:
        file: where the pickle starts.
        load_storage: `(dtype, key, count) -> array` of a PyTorch file's storages.
        encoding: of texts that Python 2 wrote.
    """

    def __init__(
        self,
        file: io.BufferedIOBase,
        load_storage: Callable[..., np.ndarray] = _no_storage,
        *,
        encoding: str = "utf-8",
    ):
        super().__init__(file, encoding=encoding)
        self._load_storage = load_storage

    def find_class(self, module: str, name: str) -> Any:
        """Our stand-in of an allowed name.

        Raises:
            CheckpointError: any other name.
        """
        if (module, name) in _NAMES:
            return _NAMES[module, name]
        if module in ("torch", "torch.storage") and name in STORAGES:
            return name
        raise CheckpointError(
            f"The file refers to {module}.{name}, which is neither a tensor nor a "
            "plain container; it was not run.",
            hint="Save only state dicts: torch.save(network.state_dict(), path).",
        )

    def persistent_load(self, reference: Any) -> np.ndarray:
        """A PyTorch file's storage."""
        kind, element, key, _location, count, *view = reference
        if kind != "storage" or any(v is not None for v in view):
            raise ValueError(f"unknown reference {kind!r}")
        return self._load_storage(STORAGES[element], str(key), int(count))


def _tensor(
    storage: np.ndarray, offset: int, size: tuple[int, ...], stride: tuple[int, ...]
) -> np.ndarray:
    """View of a storage; strides and offset count elements and are checked."""
    if len(size) != len(stride) or min((offset, *size, *stride)) < 0:
        raise ValueError("negative or inconsistent size, stride or offset")
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if math.prod(size) and last >= storage.size:
        raise ValueError(f"tensor ends at {last}, its storage at {storage.size}")
    if not math.prod(size):
        return np.zeros(size, storage.dtype)
    strides = tuple(s * storage.itemsize for s in stride)
    return np.lib.stride_tricks.as_strided(storage[offset:], size, strides)


def own(tree: Any) -> Any:
    """The same tree with plain dicts and contiguous arrays of their own memory."""
    if isinstance(tree, _NumpyArray):
        tree = tree.array
    if isinstance(tree, np.ndarray):
        return np.array(tree, tree.dtype.newbyteorder("="), order="C")
    if isinstance(tree, Mapping):
        return {key: own(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(own(value) for value in tree)
    return tree


def read_pickle_file(path: pathlib.Path) -> Any:
    """The object in a plain pickle, NumPy arrays and containers only.

    Args:
        path: file written by `pickle.dump`.

    Raises:
        CheckpointError: damaged, or holding more (the refused name is in the message).
    """
    try:
        with open(path, "rb") as file:
            return own(Unpickler(file, encoding="latin1").load())
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error.message}", hint=error.hint) from error
    except DAMAGE as error:
        raise CheckpointError(
            f"{path} is no readable pickle ({error}).",
            hint="Download or save it again.",
        ) from error
