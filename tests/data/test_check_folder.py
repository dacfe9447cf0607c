"""Check of a folder as a whole: what is said of one that cannot be read."""

import numpy as np
import pytest
from PIL import Image

from sfda_jax.data.check import check_dataset
from sfda_jax.errors import ConfigError, DataError
from tests.data import published_files as files

CITY_LABEL = "gtFine/val/lindau/lindau_000000_000019_gtFine_labelIds.png"


def _said(dataset, folder, **options) -> tuple[str, str]:
    with pytest.raises(DataError) as caught:
        check_dataset(dataset, folder, **options)
    return caught.value.message, caught.value.hint


def test_two_files_for_one_id(tmp_path):
    root = files.own_folder(tmp_path)
    for name in ("frame0", "frame2"):
        Image.fromarray(files.image()).save(root / f"val/images/{name}.jpg")
    message, hint = _said("folder", root)
    assert "share the id 'frame0'" in message and "frame2" in message
    assert hint.endswith(f"check --dataset=folder --data_dir={root}")


def test_folders_that_are_none(tmp_path):
    message, hint = _said("gta5", tmp_path)
    assert f"{tmp_path} is empty" in message and "images/*.png" in message
    assert hint.endswith(f"check --dataset=gta5 --data_dir={tmp_path}")
    files.gta5(tmp_path / "playing for data é")
    message, _ = _said("gta5", tmp_path / "playing for data e")
    assert "no such folder. Did you mean 'playing for data é'?" in message
    (tmp_path / "01_images.zip").write_bytes(b"PK")
    assert "is an archive" in _said("gta5", tmp_path / "01_images.zip")[0]


def test_folder_of_another_level(tmp_path):
    root = files.cityscapes(tmp_path / "my data" / "Städte")
    wanted = f"--data_dir='{root}'"
    for folder in (root / "leftImg8bit", root / "leftImg8bit/train", tmp_path):
        message, hint = _said("cityscapes", folder, sample=True)
        assert message.endswith(f"{root} has its layout.")
        assert wanted in hint
    own = files.own_folder(tmp_path / "own")
    assert f"{own} has its layout" in _said("folder", own / "train")[0]
    message, hint = _said("synthia", own)
    assert "RGB not found" in message and "Expected: RAND_CITYSCAPES/RGB" in message


def test_cityscapes_without_label_ids(tmp_path):
    root = files.cityscapes(tmp_path)
    for path in root.rglob("*_labelIds.png"):
        path.unlink()
    assert "gtFine/val holds no */*_gtFine_labelIds.png" in _said("cityscapes", root)[0]
    ids = files.train_ids()
    files.save(root / CITY_LABEL, np.where(ids < 34, ids, 0).astype(np.uint8))
    report = check_dataset("cityscapes", root, sample=True)
    said = {remark.kind: remark.text for remark in report.warnings}
    assert "gtFine/train holds PNGs but no" in said["no label ids"]
    assert "train has no labels" in said["no labels"]


def test_names_that_are_not_known(tmp_path):
    root = files.gta5(tmp_path)
    with pytest.raises(ConfigError, match="Did you mean 'cityscapes'"):
        check_dataset("cityscape", root)
    with pytest.raises(ConfigError, match="draws its own images"):
        check_dataset("scenes", root)
    message, _ = _said("gta5", root, variant="synthia19")
    assert "Did you mean 'synthia16'" in message


def test_paths_of_any_characters(tmp_path):
    root = files.gta5(tmp_path / "Schöne Straße 街" / "gta 5")
    (root / "images" / "00002.png").write_bytes(b"")
    report = check_dataset("gta5", root, sample=True)
    assert str(root / "images" / "00002.png") in report.errors[0].text
    assert report.place.command("prepare").endswith(f"--manual_dir='{root}'")
