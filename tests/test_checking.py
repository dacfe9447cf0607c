"""The command `check`: exit status, what it prints and writes, a recipe's datasets."""

import json

import numpy as np
import pytest
from PIL import Image

from sfda_jax import main
from tests.data import published_files as files

OWN = "configs/own_data.py"


def _check(capsys, *arguments: str) -> tuple[int, str]:
    status = main.main(["check", *arguments])
    captured = capsys.readouterr()
    return status, captured.out + captured.err


def test_sound_and_faulty_files(capsys, tmp_path):
    root = files.gta5(tmp_path / "Spiel é 1")
    flags = ["--dataset=gta5", f"--data_dir={root}", "--sample"]
    status, said = _check(capsys, *flags)
    assert status == 0
    assert said.rstrip().endswith(f"python -m data_prep gta5 --manual_dir='{root}'")
    (root / "labels" / "00001.png").write_bytes(b"")
    status, said = _check(capsys, *flags)
    assert status == 1
    assert "labels/00001.png is empty (0 bytes)" in said
    assert said.rstrip().endswith(f"check --dataset=gta5 --data_dir='{root}' --sample")


def test_part_of_a_dataset_needs_a_word(capsys, tmp_path):
    root = files.gta5(tmp_path)
    status, said = _check(capsys, "--dataset=gta5", f"--data_dir={root}")
    assert status == 1 and "published 24,904" in said and "--sample" in said


def test_files_written(capsys, tmp_path):
    root, out = files.gta5(tmp_path / "gta5"), tmp_path / "found" / "here"
    flags = ["--dataset=gta5", f"--data_dir={root}", f"--out={out}", "--sample"]
    status, said = _check(capsys, *flags, f"--json={tmp_path / 'x.json'}")
    assert status == 0 and said.splitlines()[-1].startswith("Ready. Next: ")
    record = json.loads((out / "check.json").read_text())
    assert record["splits"]["train"]["found"] == 3 and record["ok"]
    assert json.loads((tmp_path / "x.json").read_text()) == record
    with Image.open(out / "contact_sheet.png") as sheet:
        assert sheet.width > 1000
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    status, said = _check(capsys, *flags[:2], f"--out={blocked / 'x'}")
    assert status == 1 and "cannot be written" in said


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "--dataset=NAME --data_dir=FOLDER"),
        (["--dataset=gta5"], "Where are the files of 'gta5'?"),
        (["--dataset=gta", "--data_dir=."], "Did you mean 'gta5'"),
        (["--dataset=gta5", "--data_dir=no/such/folder"], "no such folder"),
        (["--dataset=gta5", "--data_dir=.", "--limit=-1"], "Expected 0 (all) or more"),
        (["--dataset=gta5", "--data_dir=.", "--samples"], "Did you mean '--sample'"),
        (["--dataset=gta5", "--config", OWN], "not both"),
    ],
)
def test_mistakes(capsys, arguments, says):
    status, said = _check(capsys, *arguments)
    assert status == 1 and says in said


def test_datasets_of_a_recipe(capsys, tmp_path):
    root = tmp_path / "mine"
    for domain in ("source", "target"):
        files.own_folder(root / domain)
    for k, path in enumerate(sorted(root.rglob("images/*.png"))):
        files.save(path, files.image(k))
    data_dir = tmp_path / "prepared"
    flags = [
        *("--config", OWN, f"--config.task.classes={root / 'source' / 'classes.txt'}"),
        f"--config.data.manual_dirs.folder={root}",
        f"--config.data.data_dir={data_dir}",
    ]
    bad = root / "target" / "val" / "labels" / "frame1.png"
    files.save(bad, np.full(files.SIZE, 9, np.uint8))
    status, said = _check(capsys, *flags)
    assert status == 1 and "val/labels/frame1.png holds 9 (768 pixels)" in said
    assert "--variant=target" in said
    assert not data_dir.exists()  # nothing is prepared from faulty files
    files.save(bad, files.train_ids(num_classes=2))
    status, said = _check(capsys, *flags)
    assert status == 0 and "stage 1 source" in said
    assert said.count("Ready. Next: python -m data_prep folder") == 2


def test_prepared_datasets_of_a_recipe(capsys, tmp_path):
    recipe = "configs/demo.py"
    flags = [f"--config.data.data_dir={tmp_path}"]
    flags += [
        f"--config.task.{domain}.variant=24x48-8" for domain in ("source", "target")
    ]
    status, said = _check(capsys, "--config", recipe, *flags)
    assert status == 0 and "scenes real_test: road" in said
