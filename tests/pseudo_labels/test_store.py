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
    store = PseudoLabelStore(tmp_path / "x", part=(1, 2))
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


def weights(seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(5, 7, 3)).astype(np.float16)


def test_soft_maps(tmp_path):
    store = PseudoLabelStore(tmp_path)
    probs = weights()
    probs[0, 0] = [np.nan, 6e-8, -0.0]
    for name in ("a", "my/file (1)"):
        store.write_soft("soft", name, probs)
        store.write("labels", name, labels())
    store.finish({})
    reader = pickle.loads(pickle.dumps(store))
    found = reader.read_soft("soft", "my/file (1)")
    assert found.dtype == np.float16 and found.flags.c_contiguous
    np.testing.assert_array_equal(found.view(np.uint16), probs.view(np.uint16))
    assert reader.complete() and reader.ids("soft") == ["a", "my/file (1)"]
    contents = [p.read_bytes() for p in sorted(tmp_path.rglob("*.npz"))]
    assert contents[0] == contents[1]
    with pytest.raises(DataError, match="No soft map 'soft' of 'b'"):
        reader.read_soft("soft", "b")


@pytest.mark.parametrize("where", [0.3, 0.6, 0.95])
def test_damaged_soft_map(tmp_path, where):
    store = PseudoLabelStore(tmp_path)
    store.write_soft("soft", "a", weights())
    store.finish({})
    path = store.path("soft", "a", ".npz")
    content = bytearray(path.read_bytes())
    for damaged in (content[:-9], b"", flipped(content, int(where * len(content)))):
        path.write_bytes(damaged)
        assert not store.complete()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"Soft map .*a\.npz is damaged.*Delete"):
        store.read_soft("soft", "a")


def flipped(content, place):
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def test_progress_of_an_unfinished_round(tmp_path):
    store = PseudoLabelStore(tmp_path)
    assert store.progress() is None
    store.write("labels", "a", labels())
    arrays = {"state": np.arange(3.0), "count": np.asarray(4)}
    store.save_progress({"batches": 2, "rows": [("a", [1, 2])]}, arrays)
    store.write("labels", "b", labels(1))  # not remembered

    again = PseudoLabelStore(tmp_path)
    facts, found = again.progress()
    assert facts == {"batches": 2, "rows": [["a", [1, 2]]]}
    assert found.keys() == arrays.keys() and found["count"].shape == ()
    np.testing.assert_array_equal(found["state"], arrays["state"])
    assert again.ids("labels") == ["a"]
    again.write("labels", "b", labels(1))
    again.finish({})
    assert again.complete() and again.progress() is None
    assert again.ids("labels") == ["a", "b"]


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "map", "lost map"])
def test_damaged_progress_is_ignored(tmp_path, damage, caplog):
    store = PseudoLabelStore(tmp_path)
    store.write("labels", "a", labels())
    store.save_progress({"batches": 2}, {"state": np.arange(300.0)})
    path = tmp_path / "PROGRESS-000.npz"
    content = path.read_bytes()
    if damage == "cut":
        path.write_bytes(content[:-30])
    elif damage == "flip":
        path.write_bytes(flipped(content, 500))
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "map":
        store.path("labels", "a").write_bytes(b"other")
    else:
        store.path("labels", "a").unlink()
    again = PseudoLabelStore(tmp_path)
    assert again.progress() is None and again.ids("labels") == []
    assert len(caplog.records) == 1


def test_processes_that_share_the_images(tmp_path):
    stores = [PseudoLabelStore(tmp_path, part=(i, 3)).shared() for i in range(3)]
    for index, name in enumerate("abcdefg"):
        stores[index % 3].write("labels", name, labels(index))
        stores[index % 3].write_soft("soft", name, weights(index))
    for index, store in enumerate(stores):
        store.save_progress({"index": index}, {})
    assert stores[1].parts() == [{"index": index} for index in range(3)]
    for store in reversed(stores):
        store.finish({"kept": 1})
    reader = PseudoLabelStore(tmp_path, part=(2, 3))
    assert reader.complete() and reader.meta == {"kept": 1}
    assert reader.ids("labels") == reader.ids("soft") == list("abcdefg")
    assert not list(tmp_path.glob("PROGRESS*"))


def test_process_that_left_no_record(tmp_path):
    stores = [PseudoLabelStore(tmp_path, part=(i, 2)).shared() for i in range(2)]
    stores[0].write("labels", "a", labels())
    stores[0].save_progress({}, {})
    with pytest.raises(TrainingError, match="Process 1 left no readable record"):
        stores[0].finish({})
