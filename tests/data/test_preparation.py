"""Preparation: parallel, restartable, complete or not there."""

import hashlib
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from sfda_jax.data import shards
from sfda_jax.data.preparation import prepare
from sfda_jax.data.sources import fingerprint, open_split
from sfda_jax.errors import DataError


def _folder(root: pathlib.Path, *, count: int, size=(24, 48), seed=0) -> pathlib.Path:
    rng = np.random.default_rng(seed)
    for split, number in (("train", count), ("val", 2)):
        for kind in ("images", "labels"):
            (root / split / kind).mkdir(parents=True)
        for i in range(number):
            image = rng.integers(0, 255, (*size, 3), np.uint8)
            label = rng.integers(0, 2, size, np.uint8)
            Image.fromarray(image).save(root / split / "images" / f"{i:04d}.png")
            Image.fromarray(label).save(root / split / "labels" / f"{i:04d}.png")
    (root / "classes.txt").write_text("0 road\n1 car\n")
    return root


def _content(builder) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in pathlib.Path(builder.data_dir).iterdir()
        if "array_record" in path.name
    }


def _records(data_dir: pathlib.Path) -> list[pathlib.Path]:
    return list(data_dir.rglob("*-of-?????.json"))


def test_killed_three_times_ends_with_the_same_records(tmp_path):
    raw = _folder(tmp_path / "raw", count=64, size=(384, 768))
    data_dir = tmp_path / "killed"
    command = [sys.executable, "-m", "data_prep", "folder"]
    command += [f"--manual_dir={raw}", f"--data_dir={data_dir}"]
    for _ in range(3):
        before = len(_records(data_dir))
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        while len(_records(data_dir)) == before and process.poll() is None:
            time.sleep(0.005)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert not list(data_dir.rglob("dataset_info.json"))
        assert len(_records(data_dir)) > before
    resumed = prepare("folder", data_dir=data_dir, manual_dir=raw)
    whole = prepare("folder", data_dir=tmp_path / "whole", manual_dir=raw)
    assert _content(resumed) == _content(whole)
    assert fingerprint(resumed) == fingerprint(whole)
    assert not list(data_dir.rglob("*.partial"))


def test_a_file_replaced_after_the_kill_is_read_again(tmp_path, monkeypatch):
    raw = _folder(tmp_path / "raw", count=32)
    written = []
    original = shards._write

    def fails_late(shard, *arguments, **more):
        if len(written) == 3:
            raise DataError("stop")
        original(shard, *arguments, **more)
        written.append(shard)

    monkeypatch.setattr(shards, "_write", fails_late)
    monkeypatch.setattr(shards.os, "cpu_count", lambda: 1)
    with pytest.raises(DataError, match="stop"):
        prepare("folder", data_dir=tmp_path / "p", manual_dir=raw)
    monkeypatch.undo()
    assert len(_records(tmp_path / "p")) == 3
    replaced = raw / "train" / "images" / "0000.png"
    stat = replaced.stat()
    replaced.write_bytes((raw / "train" / "images" / "0031.png").read_bytes())
    # the folder's own name follows its files; only the shard must notice here
    assert stat.st_mtime_ns != replaced.stat().st_mtime_ns
    builder = prepare("folder", data_dir=tmp_path / "p", manual_dir=raw)
    source = open_split(builder, "train", labelled=True)
    np.testing.assert_array_equal(source[0]["image"], source[31]["image"])
    assert len(source) == 32


@pytest.mark.parametrize(("count", "expected"), [(1, 1), (9, 2), (64, 8), (2975, 12)])
def test_shards_follow_from_the_count(tmp_path, count, expected):
    plan = shards.plan_shards({"a": range(count)}, name="x", folder=tmp_path)
    assert len(plan) == expected
    assert [i for shard in plan for i in shard.pairs] == list(range(count))
    assert all(shard.pairs for shard in plan)


def test_too_small_a_disk_is_refused_before_the_first_record(tmp_path, monkeypatch):
    raw = _folder(tmp_path / "raw", count=16)
    usage = shutil._ntuple_diskusage(10**9, 10**9 - 1000, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DataError, match=r"needs about .* GB more .*nothing was start"):
        prepare("folder", data_dir=tmp_path / "p", manual_dir=raw)
    assert not list((tmp_path / "p").rglob("*array_record*"))


def test_stored_at_a_training_size(shared_data, tmp_path):
    raw = shared_data / "formats"
    small = prepare("gta5", data_dir=tmp_path, manual_dir=raw, variant="24x48")
    whole = prepare("gta5", data_dir=tmp_path, manual_dir=raw)
    for a, b in zip(
        open_split(small, "train", labelled=True),
        open_split(whole, "train", labelled=True),
        strict=True,
    ):
        bicubic = Image.fromarray(b["image"]).resize((48, 24), Image.Resampling.BICUBIC)
        nearest = Image.fromarray(b["label"]).resize((48, 24), Image.Resampling.NEAREST)
        np.testing.assert_array_equal(a["image"], bicubic)
        np.testing.assert_array_equal(a["label"], nearest)


def test_threads_do_not_matter(tmp_path, monkeypatch):
    raw = _folder(tmp_path / "raw", count=20)
    found = []
    for threads in (1, 5):
        monkeypatch.setattr(shards.os, "cpu_count", lambda n=threads: n)
        where = tmp_path / str(threads)
        found.append(_content(prepare("folder", data_dir=where, manual_dir=raw)))
    assert found[0] == found[1]
