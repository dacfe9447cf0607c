"""What a check prints, writes and draws."""

import json
import re

import numpy as np

from sfda_jax.data.check import check_dataset
from sfda_jax.report.check_text import check_record, format_check
from sfda_jax.report.contact_sheet import contact_sheet
from sfda_jax.report.palette import overlay
from sfda_jax.tasks import class_space
from tests.data import published_files as files


def test_text_of_a_sound_folder(tmp_path):
    root = files.gta5(tmp_path / "my data")
    text = format_check(check_dataset("gta5", root, sample=True))
    lines = text.splitlines()
    assert lines[0] == f"gta5 (cityscapes19) in {root}"
    assert lines[-1] == f"Ready. Next: python -m data_prep gta5 --manual_dir='{root}'"
    head = next(i for i, line in enumerate(lines) if line.startswith("split"))
    assert lines[head + 1].split() == ["train", "3", "24,904", "3", "0", "yes", "32×24"]
    rows = [line for line in lines if "█" in line]
    assert len(rows) == 19
    pixels = [
        int(re.search(r"█\S*\s+([\d,]+)", row)[1].replace(",", "")) for row in rows
    ]
    assert pixels == sorted(pixels, reverse=True) and sum(pixels) == 3 * 24 * 32
    assert len({row.index("%") for row in rows}) == 1


def test_text_counts_what_it_does_not_print(tmp_path):
    root = files.gta5(tmp_path, count=9)
    for path in (root / "images").iterdir():
        path.write_bytes(b"")
    report = check_dataset("gta5", root, sample=True)
    text = format_check(report, most=2, full="found/check.json")
    assert "9 errors" in text and "no image (9)" in text
    assert text.count("is empty (0 bytes)") == 2
    assert "… and 7 more; all in found/check.json" in text
    assert text.splitlines()[-1].startswith(
        "Not ready. Mend the errors (no image), then"
    )
    record = check_record(report)
    assert len(record["errors"]) == 9 and not record["ok"]
    assert record["errors"][0]["text"].startswith(str(root))


def test_text_names_unknown_values_and_missing_splits(tmp_path):
    root = files.cityscapes(tmp_path)
    path = next(root.rglob("lindau*_labelIds.png"))
    files.save(path, np.full(files.SIZE, 77, np.uint8))
    text = format_check(check_dataset("cityscapes", root, sample=True))
    assert re.search(r"val +77 +768 +1  gtFine/val/lindau/\S+_labelIds.png", text)
    assert re.search(r"test +– +1,525 .*not there", text)


def test_record_is_json_whatever_the_names(tmp_path):
    root = files.gta5(tmp_path)
    strange = b"\xe9.png".decode("utf-8", "surrogateescape")
    (root / "images" / strange).write_bytes(b"")
    files.palette_png(root / "labels" / strange, files.train_ids())
    report = check_dataset("gta5", root, sample=True)
    text = json.dumps(check_record(report), ensure_ascii=False)
    assert r"\\udce9.png" in text
    assert r"\udce9.png" in format_check(report)


def test_sheet_shows_splits_examples_and_every_class(tmp_path):
    root = files.cityscapes(tmp_path)
    for path in (root / "gtFine" / "train").rglob("*.png"):
        path.unlink()
    report = check_dataset("cityscapes", root, sample=True)
    sheet = contact_sheet(report)
    assert sheet.dtype == np.uint8 and sheet.shape[2] == 3
    colours = {tuple(c) for c in sheet.reshape(-1, 3).tolist()}
    space = class_space("cityscapes19")
    assert {tuple(c) for c in space.palette.tolist()} <= colours  # the legend
    taller = contact_sheet(check_dataset("gta5", files.gta5(tmp_path / "g"), limit=1))
    assert sheet.shape[0] > taller.shape[0]


def test_sheet_of_files_that_vanished(tmp_path):
    root = files.gta5(tmp_path)
    report = check_dataset("gta5", root, sample=True)
    whole = contact_sheet(report)
    for path in (root / "images").iterdir():
        path.write_bytes(b"")
    assert contact_sheet(report).shape[0] < whole.shape[0]
    assert contact_sheet(check_dataset("gta5", root, sample=True)).shape[0] < 400


def test_overlay_mixes_colours_and_greys_what_has_none():
    classes = class_space("cityscapes19")
    image = np.full((1, 3, 3), 100, np.uint8)
    labels = np.array([[0, 255, 13]], np.uint8)
    half = overlay(image, labels, classes, weight=0.5)
    assert half[0, 0].tolist() == [114, 82, 114]
    assert half[0, 1].tolist() == [153, 151, 147]
    np.testing.assert_array_equal(overlay(image, labels, classes, weight=0.0), image)
