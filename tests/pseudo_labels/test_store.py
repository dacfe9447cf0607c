import errno
import json
import os
import pickle

import numpy as np
import pytest

from sfda_jax.errors import DataError, TrainingError
from sfda_jax.pseudo_labels.store import MANIFEST, PseudoLabelStore

IDS = [
    "a",
    "aachen/aachen_000000",
    "my file (1)",
    "Straße/東京 α",
    "../../escape",
    "/absolute",
    "..",
    "a%2Fb",
    "c:\\x*?",
    "nul\0",
    "long" * 100,
    "a//b",
    "",
]


def labels(seed=0):
    rng = np.random.default_rng(seed)
    return rng.choice([0, 3, 18, 255], (9, 14)).astype(np.uint8)


def finished(root):
    store = PseudoLabelStore(root)
    for index, example_id in enumerate(IDS):
        store.write("pseudo", example_id, labels(index))
    store.finish({"thresholds": np.array([0.5, 0.25]), "kept": 0.5, "name": "α"})
    return store


def test_round_trip_of_awkward_ids_inside_root(tmp_path):
    store = finished(tmp_path / "a b" / "round")
    for reader in (
        store,
        PseudoLabelStore(store.root),
        pickle.loads(pickle.dumps(store)),
    ):
        assert reader.complete()
        assert reader.meta == {"thresholds": [0.5, 0.25], "kept": 0.5, "name": "α"}
        assert reader.ids("pseudo") == IDS
        for index, example_id in enumerate(IDS):
            np.testing.assert_array_equal(
                reader.read("pseudo", example_id), labels(index)
            )
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert all(p.is_relative_to(store.root) for p in files)
    assert len(files) == len(IDS) + 1
    assert not (store.root / "pseudo" / "a" / "b.png").exists()


def test_incomplete_until_finished(tmp_path):
    store = PseudoLabelStore(tmp_path)
    assert not store.complete()
    store.write("pseudo", "a", labels())
    assert not store.complete()
    with pytest.raises(DataError, match="not complete"):
        _ = store.meta
    store.finish({})
    assert store.complete()


def test_writing_again_reopens_the_round(tmp_path):
    finished(tmp_path)
    again = PseudoLabelStore(tmp_path)
    assert again.complete()
    again.write("pseudo", "a", labels(7))
    assert not again.complete()


@pytest.mark.parametrize("damage", ["delete", "cut", "flip"])
def test_damaged_file_makes_it_incomplete(tmp_path, damage):
    store = finished(tmp_path)
    path = store.path("pseudo", "a")
    content = bytearray(path.read_bytes())
    if damage == "delete":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(content[:-3])
    else:
        content[-20] ^= 1
        path.write_bytes(content)
    assert not store.complete()
    if damage != "flip":
        with pytest.raises(DataError, match=r"a\.png"):
            store.read("pseudo", "a")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "\0",
        '{"format": 9}',
        '{"format": 1}',
        '{"format": 1, "meta": {}, "files": []}',
        '{"format": 1, "meta": {}, "files": {"p": {"a": 3}}}',
    ],
)
def test_corrupt_manifest_is_incomplete(tmp_path, text):
    store = finished(tmp_path)
    (tmp_path / MANIFEST).write_text(text)
    assert not store.complete()
    (tmp_path / MANIFEST).write_bytes(b"\xff\xfe")
    assert not store.complete()


def test_reader_processes_write_nothing(tmp_path):
    store = PseudoLabelStore(tmp_path / "x", writable=False)
    store.write("pseudo", "a", labels())
    store.finish({})
    assert not (tmp_path / "x").exists()


def test_missing_map(tmp_path):
    with pytest.raises(DataError, match="No label map 'pseudo' of 'b'"):
        finished(tmp_path).read("pseudo", "b")


def test_full_disk_says_so_and_leaves_no_partial_file(tmp_path, monkeypatch):
    def full(source, target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    store = PseudoLabelStore(tmp_path)
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(TrainingError, match=r"No space left.*Free disk space"):
        store.write("pseudo", "a", labels())
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_manifest_is_readable_json(tmp_path):
    finished(tmp_path)
    manifest = json.loads((tmp_path / MANIFEST).read_text("utf-8"))
    assert manifest["files"]["pseudo"]["a"].keys() == {"size", "sha256"}
