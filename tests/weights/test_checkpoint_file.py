"""Files told apart by content, and what is said about those that are no checkpoints."""

import collections
import io
import os
import pickle
import shutil
import sys
import types
import zipfile

import numpy as np
import pytest

from sfda_jax.errors import CheckpointError
from sfda_jax.weights.checkpoint_file import read_checkpoint, write_checkpoint
from sfda_jax.weights.convert import load_published, save_published, to_torch
from sfda_jax.weights.orbax_folder import write_orbax_folder
from tests.weights.networks import DEEPLAB, VGG, assert_equal, random_state

ARRAYS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "t": np.arange(6, dtype=np.float64).reshape(2, 3).T,
    "b": np.array([True, False]),
    "h": np.float16([1.5]),
    "i": np.arange(3, dtype=">i4"),
    "scalar": np.float32(2.5),
    "empty": np.zeros((0, 2), np.int64),
}


def _assert_arrays(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype.newbyteorder("=")
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".bin", ""])
def test_content_decides_not_the_name(tmp_path, suffix):
    state = random_state(DEEPLAB)
    for written in (".pth", ".safetensors"):
        save_published(tmp_path / f"m{written}", state, DEEPLAB)
        renamed = tmp_path / f"renamed{suffix}"
        shutil.move(tmp_path / f"m{written}", renamed)
        assert_equal(load_published(renamed, DEEPLAB).state, state)


@pytest.mark.parametrize("layout", ["deeplab_v2", "deeplab_v2_crst", "ours"])
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_written_files_are_read_back(tmp_path, layout, suffix):
    state, path = random_state(DEEPLAB), tmp_path / f"m{suffix}"
    save_published(path, state, DEEPLAB, layout=layout)
    filled = load_published(path, DEEPLAB)
    assert filled.report.layout == layout
    assert_equal(filled.state, state)


def test_mxnet_files(tmp_path):
    tree = {"arg": {"w": np.ones((2, 3), np.float32)}, "aux": {}}
    write_checkpoint(tmp_path / "m.params", tree)
    (tmp_path / "m.params").rename(tmp_path / "m.pth")
    np.testing.assert_array_equal(read_checkpoint(tmp_path / "m.pth")["arg"]["w"], 1)
    with pytest.raises(CheckpointError, match="arg, aux"):
        save_published(tmp_path / "n.params", random_state(DEEPLAB), DEEPLAB)


def test_orbax_folders(tmp_path):
    state = random_state(VGG)
    write_orbax_folder(tmp_path / "m", state, {"kind": "deeplab_v2_vgg"})
    assert_equal(load_published(tmp_path / "m", VGG).state, state)
    with pytest.raises(CheckpointError, match=r"conv5_0/kernel has shape"):
        load_published(tmp_path / "m", VGG.clone(planes=(2, 2, 3, 3, 4)))
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="no Orbax checkpoint") as caught:
        read_checkpoint(tmp_path / "empty")
    assert "holds nothing" in caught.value.hint


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_arrays(tmp_path, protocol):
    tree = {**ARRAYS, "nested": [ARRAYS["a"]], "n": 3, "set": {1}}
    tree["counter"] = collections.Counter({5: 1})
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(tree, protocol))
    found = read_checkpoint(tmp_path / "m.pkl")
    np.testing.assert_array_equal(found.pop("nested")[0], ARRAYS["a"])
    assert (found.pop("n"), found.pop("set"), found.pop("counter")) == (3, {1}, {5: 1})
    _assert_arrays(found, ARRAYS)
    assert all(a.flags.writeable for a in found.values() if isinstance(a, np.ndarray))


def test_pickles_of_python_2_and_of_older_numpy(tmp_path):
    data = pickle.dumps({"a": ARRAYS["a"]}, 2)
    assert b"numpy._core" in data
    data = data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    (tmp_path / "m.pkl").write_bytes(data)
    _assert_arrays(read_checkpoint(tmp_path / "m.pkl"), {"a": ARRAYS["a"]})
    (tmp_path / "m.pkl").write_bytes(
        # Python 2 wrote an array's bytes as a text of Latin letters.
        b"\x80\x02}U\x01acnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
        b"K\x00\x85U\x01b\x87R(K\x01K\x02K\x03\x86cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R"
        b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x18"
        + ARRAYS["a"].tobytes()
        + b"tbs."
    )
    _assert_arrays(read_checkpoint(tmp_path / "m.pkl"), {"a": ARRAYS["a"]})


def test_configurations_become_dicts(tmp_path, monkeypatch):
    module = types.ModuleType("yacs.config")
    module.CfgNode = type("CfgNode", (dict,), {"__module__": "yacs.config"})
    monkeypatch.setitem(sys.modules, "yacs", types.ModuleType("yacs"))
    monkeypatch.setitem(sys.modules, "yacs.config", module)
    settings = module.CfgNode(lr=0.1)
    settings.__dict__["__immutable__"] = True
    arrays = to_torch(random_state(DEEPLAB), DEEPLAB, "deeplab_v2_crst")[""]
    parts = {"model_state": arrays, "optimizer_state": {"state": {0: {}}}}
    tree = {"DeepLabV2": parts, "iter": 3, "best_iou": np.float64(0.4)}
    tree["configs"] = {"training": settings}
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(tree))
    found = read_checkpoint(tmp_path / "m.pkl")
    assert found["configs"] == {"training": {"lr": 0.1}}
    filled = load_published(tmp_path / "m.pkl", DEEPLAB)
    assert_equal(filled.state, random_state(DEEPLAB))
    assert filled.report.ignored == ("DeepLabV2.optimizer_state",)


class _Runs:
    """Pickles as a call of anything."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "function", [os.system, eval, exec, getattr, open, np.load, pickle.loads]
)
def test_pickles_that_would_run_code_are_refused(tmp_path, protocol, function):
    victim = tmp_path / "pwned"
    call = _Runs(function, f"touch {victim}")
    (tmp_path / "m.pkl").write_bytes(pickle.dumps({"a": call}, protocol))
    with pytest.raises(CheckpointError, match=r"m\.pkl: .*it was not run"):
        read_checkpoint(tmp_path / "m.pkl")
    assert not victim.exists()


def test_a_zip_that_would_run_code_is_refused(tmp_path):
    victim = tmp_path / "pwned"
    with zipfile.ZipFile(tmp_path / "m.pth", "w") as archive:
        data = pickle.dumps(_Runs(os.system, f"touch {victim}"), 2)
        archive.writestr("archive/data.pkl", data)
    with pytest.raises(CheckpointError, match="was not run"):
        read_checkpoint(tmp_path / "m.pth")
    assert not victim.exists()


def _state(target, state):
    """A pickle that sets an allowed name's state: `BUILD`."""
    out = io.BytesIO()
    out.write(b"\x80\x02" + b"c" + target + b"\n")
    out.write(pickle.dumps(state, 2)[2:-1] + b"b.")
    return out.getvalue()


@pytest.mark.parametrize(
    "target",
    [
        b"collections\nOrderedDict",
        b"collections\nCounter",
        b"numpy\ndtype",
        b"numpy\nndarray",
        b"_codecs\nencode",
        b"numpy.core.multiarray\n_reconstruct",
        b"torch._utils\n_rebuild_tensor_v2",
        b"torch\nFloatStorage",
    ],
)
@pytest.mark.parametrize("state", [{"update": 1}, (None, {"update": 1})])
def test_pickles_cannot_alter_what_they_may_call(tmp_path, target, state):
    (tmp_path / "m.pkl").write_bytes(_state(target, state))
    with pytest.raises(CheckpointError, match="no readable pickle"):
        read_checkpoint(tmp_path / "m.pkl")


def test_arrays_that_lie_about_their_size_are_refused(tmp_path):
    whole = pickle.dumps({"a": np.zeros((3, 5), np.uint8)}, 2)
    for old, new in ((b"K\x03K\x05", b"K\x03K\x7f"), (b"u1", b"O8")):
        assert old in whole
        (tmp_path / "m.pkl").write_bytes(whole.replace(old, new))
        with pytest.raises(CheckpointError, match="no readable pickle"):
            read_checkpoint(tmp_path / "m.pkl")
    (tmp_path / "m.pkl").write_bytes(pickle.dumps({"a": np.array([None])}, 2))
    with pytest.raises(CheckpointError, match="array of 'O8'"):
        read_checkpoint(tmp_path / "m.pkl")


@pytest.mark.parametrize("name", ["m.pth", "m.safetensors", "m.pkl", "m.params"])
def test_truncated_files_say_so(tmp_path, name):
    path = tmp_path / name
    if name == "m.pkl":
        path.write_bytes(pickle.dumps({"a": np.zeros(100)}))
    elif name == "m.params":
        write_checkpoint(path, {"arg": {"w": np.ones((9, 9), np.float32)}, "aux": {}})
    else:
        write_checkpoint(path, to_torch(random_state(VGG), VGG))
    whole = path.read_bytes()
    for length in (20, len(whole) // 3, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=name.replace(".", r"\.")) as caught:
            read_checkpoint(path)
        assert caught.value.hint


@pytest.mark.parametrize(
    ("content", "says", "mends"),
    [
        (b"", r"empty \(0 bytes\)", "Download"),
        (
            b"<!DOCTYPE html>\n<html><head><title> Quota exceeded </title>",
            "web page .'Quota exceeded'.",
            "browser",
        ),
        (b"\n  <HTML><body>Not found</body></HTML>", "web page", "browser"),
        (b"Not Found\n", "text file that begins with 'Not Found'", "Download"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n"
            b"size 178793939\n",
            "Git LFS pointer for 178793939 bytes",
            "git lfs pull",
        ),
        (b"\x1f\x8b\x08" + bytes(50), "gzip", "gunzip"),
        (b"\x89HDF\r\n\x1a\n" + bytes(50), "HDF5", "state dict"),
        (bytes(range(256)) * 8, r"no known format .*00 01 02 03", "PyTorch"),
        (b"cos\nsystem\n(S'touch pwned'\ntR.", "text file", "Download"),
    ],
)
def test_what_else_a_file_may_be(tmp_path, content, says, mends):
    (tmp_path / "m.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=says) as caught:
        read_checkpoint(tmp_path / "m.pth")
    assert mends in caught.value.hint


def test_other_zips_and_missing_files(tmp_path):
    np.savez(tmp_path / "m.npz", a=np.zeros(2))
    with pytest.raises(CheckpointError, match=r"zip archive of a\.npy"):
        read_checkpoint(tmp_path / "m.npz")
    with pytest.raises(CheckpointError, match=r"Did you mean 'm\.npz'"):
        read_checkpoint(tmp_path / "m.nzp")
