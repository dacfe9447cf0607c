import collections
import io
import pickle
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest

from sfda_jax.errors import CheckpointError
from sfda_jax.weights.torch_file import read_torch_file, write_torch_file

_DTYPES = (
    np.float64,
    np.float32,
    np.float16,
    ml_dtypes.bfloat16,
    np.int64,
    np.int32,
    np.int16,
    np.int8,
    np.uint8,
    np.bool_,
)


class _Name:
    """Stands for a name of PyTorch while a test writes a file by hand."""

    def __init__(self, module, name):
        self.module, self.name = module, name

    def __call__(self, *arguments):
        raise AssertionError


class _Call:
    def __init__(self, name, *arguments):
        self.name, self.arguments = name, arguments


class _Storage(collections.namedtuple("Storage", "kind key count")):
    pass


class _Pickler(pickle._Pickler):
    """Writes what `torch.save` writes, names included, without PyTorch."""

    def persistent_id(self, value):
        if isinstance(value, _Storage):
            kind = _Name("torch", value.kind)
            return ("storage", kind, value.key, "cpu", value.count, *self.extra)
        return None

    def save(self, value, save_persistent_id=True):
        if isinstance(value, _Name):
            self.write(f"c{value.module}\n{value.name}\n".encode())
        elif isinstance(value, _Call):
            self.save(value.name)
            self.save(value.arguments)
            self.write(b"R")
        else:
            super().save(value, save_persistent_id)


def _pickled(value, *extra):
    out = io.BytesIO()
    pickler = _Pickler(out, 2)
    pickler.extra = extra
    pickler.dump(value)
    return out.getvalue()


def _tensor(storage, offset, size, stride):
    name = _Name("torch._utils", "_rebuild_tensor_v2")
    hooks = _Call(_Name("collections", "OrderedDict"))
    return _Call(name, storage, offset, size, stride, False, hooks)


def _zip(path, value, storages, **records):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/data.pkl", _pickled(value))
        for key, array in storages.items():
            archive.writestr(f"net/data/{key}", array.tobytes())
        for name, data in records.items():
            archive.writestr(f"net/{name}", data)


def _legacy(path, value, storages):
    parts = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
    data = b"".join(_pickled(part) for part in parts)
    data += _pickled(value, None) + _pickled(list(storages))
    for array in storages.values():
        data += struct.pack("<q", array.size) + array.tobytes()
    path.write_bytes(data)


def _views():
    """Two tensors in one storage: a transposed view and one with an offset."""
    storage = _Storage("FloatStorage", "7", 12)
    parameter = _Call(
        _Name("torch._utils", "_rebuild_parameter"),
        _tensor(storage, 0, (4, 3), (1, 4)),
        True,
        _Call(_Name("collections", "OrderedDict")),
    )
    tree = {"a": parameter, "b": [_tensor(storage, 5, (2, 2), (3, 1))], "n": 3}
    return tree, {"7": np.arange(12, dtype=np.float32)}


@pytest.mark.parametrize("write", [_zip, _legacy])
def test_strides_and_offsets_in_both_layouts(tmp_path, write):
    write(tmp_path / "f.pth", *_views())
    tree = read_torch_file(tmp_path / "f.pth")
    np.testing.assert_array_equal(tree["a"], np.arange(12).reshape(3, 4).T)
    np.testing.assert_array_equal(tree["b"][0], [[5, 6], [8, 9]])
    assert tree["n"] == 3 and tree["a"].flags.c_contiguous and tree["a"].flags.writeable


@pytest.mark.parametrize("dtype", _DTYPES)
def test_round_trip_of_every_dtype(tmp_path, dtype):
    array = np.arange(-3, 3).astype(dtype).reshape(2, 3)
    tree = {"x": array, "scalar": array[0, 0], "empty": array[:0], "t": array.T}
    write_torch_file(tmp_path / "f.pth", tree)
    back = read_torch_file(tmp_path / "f.pth")
    for name, value in tree.items():
        assert back[name].dtype == dtype and back[name].shape == np.shape(value)
        np.testing.assert_array_equal(back[name], value)


def test_round_trip_of_containers_and_same_bytes(tmp_path):
    tree = {
        "none": None,
        "flags": [True, False],
        "numbers": (0, -1, 127, 128, 2**40, 1.5),
        "text": "grün",
        "nested": {"empty": {}, "list": []},
    }
    for name in ("a.pth", "b.pth"):
        write_torch_file(tmp_path / name, tree)
    assert read_torch_file(tmp_path / "a.pth") == tree
    assert (tmp_path / "a.pth").read_bytes() == (tmp_path / "b.pth").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.pth", "b.pth"]


@pytest.mark.parametrize("write", [_zip, _legacy])
@pytest.mark.parametrize(
    ("module", "name"), [("os", "system"), ("torch._utils", "_import_dotted_name")]
)
def test_every_other_name_is_refused_and_named(tmp_path, write, module, name):
    write(tmp_path / "f.pth", {"x": _Call(_Name(module, name), "touch pwned")}, {})
    with pytest.raises(CheckpointError, match=f"{module}.{name}"):
        read_torch_file(tmp_path / "f.pth")


@pytest.mark.parametrize("write", [_zip, _legacy])
@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [(0, (13,), (1,)), (11, (2,), (1,)), (0, (2,), (-1,)), (0, (2, 2), (1,))],
)
def test_tensors_outside_their_storage_are_refused(
    tmp_path, write, offset, size, stride
):
    storage = _Storage("FloatStorage", "0", 12)
    tensor = _tensor(storage, offset, size, stride)
    write(tmp_path / "f.pth", {"x": tensor}, {"0": np.zeros(12, np.float32)})
    with pytest.raises(CheckpointError, match=r"f\.pth is no readable"):
        read_torch_file(tmp_path / "f.pth")


@pytest.mark.parametrize("write", [_zip, _legacy])
def test_damaged_files_say_so(tmp_path, write):
    path = tmp_path / "f.pth"
    write(path, *_views())
    whole = path.read_bytes()
    for length in range(0, len(whole), max(1, len(whole) // 40)):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"f\.pth is no readable"):
            read_torch_file(path)
    with pytest.raises(CheckpointError, match="does not exist"):
        read_torch_file(tmp_path / "none.pth")


def test_big_endian_files_are_refused(tmp_path):
    _zip(tmp_path / "f.pth", *_views(), byteorder="big")
    with pytest.raises(CheckpointError, match="byte order"):
        read_torch_file(tmp_path / "f.pth")


@pytest.mark.parametrize("value", [{1, 2}, np.zeros(1, np.complex64), object()])
def test_what_cannot_be_written_is_named(tmp_path, value):
    with pytest.raises(CheckpointError, match=type(value).__name__[:3] + "|complex64"):
        write_torch_file(tmp_path / "f.pth", {"x": value})
    assert not list(tmp_path.iterdir())
