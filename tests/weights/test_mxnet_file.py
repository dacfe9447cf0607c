import struct

import numpy as np
import pytest

from sfda_jax.errors import CheckpointError
from sfda_jax.weights.mxnet_file import read_mxnet_file, write_mxnet_file

_RNG = np.random.default_rng(0)


def _tree():
    return {
        "arg": {
            "conv_weight": _RNG.normal(size=(2, 3, 1, 3)).astype(np.float32),
            "linear_bias": _RNG.normal(size=4),
        },
        "aux": {"bn_moving_mean": np.arange(5, dtype=np.float16)},
    }


def _assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for section, arrays in expected.items():
        assert list(found[section]) == list(arrays)
        for name, array in arrays.items():
            assert found[section][name].dtype == array.dtype
            assert found[section][name].flags.writeable
            np.testing.assert_array_equal(found[section][name], array)


@pytest.mark.parametrize("version", [0, 1, 2])
def test_round_trip_and_same_bytes_in_every_layout(tmp_path, version):
    tree = _tree()
    for name in ("a.params", "b.params"):
        write_mxnet_file(tmp_path / name, tree, version=version)
    _assert_equal(read_mxnet_file(tmp_path / "a.params"), tree)
    assert (tmp_path / "a.params").read_bytes() == (tmp_path / "b.params").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.params", "b.params"]


@pytest.mark.parametrize("dtype", ["f4", "f8", "f2", "u1", "i4", "i1", "i8"])
def test_element_types_byte_orders_and_views(tmp_path, dtype):
    array = np.arange(6).astype(dtype).reshape(2, 3)
    tree = {"arg": {"x": array.T, "swapped": array.astype(f">{dtype}")}, "aux": {}}
    write_mxnet_file(tmp_path / "f.params", tree)
    back = read_mxnet_file(tmp_path / "f.params")["arg"]
    assert back["x"].dtype == back["swapped"].dtype == np.dtype(dtype)
    np.testing.assert_array_equal(back["x"], array.T)
    np.testing.assert_array_equal(back["swapped"], array)


def test_a_missing_section_is_empty(tmp_path):
    write_mxnet_file(tmp_path / "f.params", {"arg": {"x": np.ones(1, np.float32)}})
    assert read_mxnet_file(tmp_path / "f.params")["aux"] == {}


@pytest.mark.parametrize("version", [0, 1, 2])
def test_truncated_files_say_so(tmp_path, version):
    path = tmp_path / "f.params"
    write_mxnet_file(path, _tree(), version=version)
    whole = path.read_bytes()
    for length in range(0, len(whole), 3):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"f\.params is no readable MXNet"):
            read_mxnet_file(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(CheckpointError, match="1 bytes follow"):
        read_mxnet_file(path)
    with pytest.raises(CheckpointError, match="does not exist"):
        read_mxnet_file(tmp_path / "none.params")


def test_any_changed_byte_is_harmless(tmp_path):
    path = tmp_path / "f.params"
    write_mxnet_file(path, _tree())
    whole = path.read_bytes()
    for position in range(len(whole)):
        path.write_bytes(
            whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :]
        )
        try:
            read_mxnet_file(path)
        except CheckpointError as error:
            assert "f.params is no readable" in error.message


def _file(arrays, names, count=None):
    data = struct.pack("<3Q", 0x112, 0, len(arrays) if count is None else count)
    data += b"".join(arrays) + struct.pack("<Q", len(names))
    return data + b"".join(struct.pack("<Q", len(n)) + n for n in names)


def _array(*, storage=0, shape=(1,), kind=0, data=b"\0\0\0\0"):
    head = struct.pack("<IiI", 0xF993FAC9, storage, len(shape))
    return head + struct.pack(f"<{len(shape)}q3i", *shape, 1, 0, kind) + data


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (_file([_array()], [b"arg:x"], count=2**60), "do not fit"),
        (_file([_array(shape=(2**62, 2**62))], [b"arg:x"]), "are left"),
        (_file([_array(shape=(-1,))], [b"arg:x"]), "of shape"),
        (_file([_array(shape=(1,) * 33)], [b"arg:x"]), "33 dimensions"),
        (_file([_array(shape=())], [b"arg:x"]), "0 dimensions"),
        (_file([_array(kind=99)], [b"arg:x"]), "element type 99"),
        (_file([_array(storage=1)], [b"arg:x"]), "sparse"),
        (_file([_array()], []), "1 arrays have 0 names"),
        (_file([_array()], [b"x"]), "'x' is no new"),
        (_file([_array()], [b"net:x"]), "'net:x' is no new"),
        (_file([_array()] * 2, [b"arg:x"] * 2), "'arg:x' is no new"),
        (_file([_array()], [b"arg:\xff"]), "utf-8"),
        (b"PK\x03\x04" + bytes(40), "not 0x112"),
    ],
)
def test_hostile_files_are_refused_with_the_reason(tmp_path, data, why):
    (tmp_path / "f.params").write_bytes(data)
    with pytest.raises(CheckpointError, match=why):
        read_mxnet_file(tmp_path / "f.params")


@pytest.mark.parametrize(
    "tree",
    [
        {"net": {"x": np.ones(1, np.float32)}},
        {"arg": {"x": np.ones(1, np.complex64)}},
        {"arg": {"x": np.float32(1)}},
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path, tree):
    with pytest.raises(CheckpointError, match="MXNet files hold"):
        write_mxnet_file(tmp_path / "f.params", tree)
    with pytest.raises(CheckpointError, match="cannot be written"):
        write_mxnet_file(tmp_path / "none" / "f.params", _tree())
    assert not list(tmp_path.iterdir())
