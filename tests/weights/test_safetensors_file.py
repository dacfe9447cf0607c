import json
import struct
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from sfda_jax.errors import CheckpointError
from sfda_jax.weights.safetensors_file import (
    read_safetensors_file,
    write_safetensors_file,
)

_DTYPES = [ml_dtypes.bfloat16, "f2", "f4", "f8", "i8", "u1", "bool"]


@pytest.mark.parametrize("dtype", _DTYPES)
def test_round_trip_of_every_dtype(tmp_path, dtype):
    array = np.arange(6).astype(dtype).reshape(2, 3)
    tree = {"": {"scalar": array[1, 1], "empty": array[:0], "t": array.T, "x": array}}
    write_safetensors_file(tmp_path / "f.safetensors", tree)
    back = read_safetensors_file(tmp_path / "f.safetensors")
    assert back.keys() == {""} and list(back[""]) == sorted(tree[""])
    for name, value in tree[""].items():
        assert back[""][name].dtype == np.dtype(dtype)
        np.testing.assert_array_equal(back[""][name], value)


def test_bfloat16_in_a_program_that_knows_nothing_of_it(tmp_path):
    tree = {"": {"x": np.ones(2, ml_dtypes.bfloat16)}}
    write_safetensors_file(tmp_path / "f", tree)
    code = "import sys; from sfda_jax.weights.safetensors_file import *; "
    code += "print(read_safetensors_file(sys.argv[1])['']['x'].dtype)"
    command = [sys.executable, "-c", code, str(tmp_path / "f")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "bfloat16\n"


def test_sections_and_same_bytes(tmp_path):
    one = np.ones(1, np.float32)
    tree = {"classifier": {"a.weight": one, "b/c": 2 * one}, "": {"x": 3 * one}}
    for name in ("a", "b"):
        write_safetensors_file(tmp_path / name, tree)
    assert read_safetensors_file(tmp_path / "a") == tree
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_files_of_others_are_one_unnamed_section(tmp_path):
    save_file({"conv1.weight": np.ones((1, 2))}, tmp_path / "f", {"format": "pt"})
    (tree,) = read_safetensors_file(tmp_path / "f").values()
    assert list(tree) == ["conv1.weight"]


def test_damaged_files_say_so(tmp_path):
    path = tmp_path / "f.safetensors"
    write_safetensors_file(path, {"a": {"x": np.arange(9.0)}})
    whole = path.read_bytes()
    for length in (*range(0, len(whole), 5), len(whole) + 1):
        path.write_bytes((whole + b"\0")[:length])
        with pytest.raises(CheckpointError, match=r"f\.safetensors is no readable"):
            read_safetensors_file(path)
    with pytest.raises(CheckpointError, match="does not exist"):
        read_safetensors_file(tmp_path / "none")


@pytest.mark.parametrize(
    ("dtype", "shape", "offsets"),
    [
        ("F8_E5M2", [1], [0, 1]),
        ("F32", [2**40], [0, 1]),
        ("F32", [1], [0, 2**40]),
        ("NONE", [1], [0, 1]),
    ],
)
def test_hostile_headers_are_refused(tmp_path, dtype, shape, offsets):
    entry = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
    header = json.dumps({"x": entry}).encode()
    (tmp_path / "f").write_bytes(struct.pack("<Q", len(header)) + header + b"\0")
    with pytest.raises(CheckpointError, match="is no readable"):
        read_safetensors_file(tmp_path / "f")


@pytest.mark.parametrize(
    "tree",
    [
        {"a": {"x": np.zeros(1, np.complex128)}},
        {"a/b": {"x": np.zeros(1)}},
        {"": {"a/x": np.zeros(1)}},
    ],
)
def test_what_cannot_be_read_back_is_not_written(tmp_path, tree):
    with pytest.raises(CheckpointError):
        write_safetensors_file(tmp_path / "f", tree)
    assert not list(tmp_path.iterdir())
