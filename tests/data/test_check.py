"""Check of published files: what is counted, what is found, what is said of it."""

import os
import pathlib
import re
import shutil

import cv2
import numpy as np
import pytest
from PIL import Image

from sfda_jax.data import check
from sfda_jax.data.check import check_dataset
from sfda_jax.data.check_pairs import examine
from sfda_jax.errors import DataError
from sfda_jax.registry import resolve
from sfda_jax.tasks import CLASS_SPACES
from tests.data import published_files as files

SAMPLES = {
    "gta5": {"train": 3},
    "synthia": {"train": 2},
    "cityscapes": {"train": 2, "val": 2},
    "acdc": {"fog_val": 1, "night_train": 1, "night_test": 1, "night_train_ref": 1},
    "dark_zurich": {"night_train": 1, "night_val": 1},
    "bdd100k": {"train": 1, "val": 1},
    "crosscity": {"rio_train": 1, "rio_test": 1},
}


@pytest.mark.parametrize("dataset", SAMPLES)
def test_samples_of_every_format(shared_data, dataset):
    report = check_dataset(dataset, shared_data / "formats", sample=True)
    assert not report.errors
    assert {split.name: split.found for split in report.splits} == SAMPLES[dataset]
    assert all(split.read == split.found for split in report.splits)
    whole = check_dataset(dataset, shared_data / "formats")
    assert {remark.kind for remark in whole.errors} == {"count"}


def test_counts_are_those_of_the_train_ids(shared_data):
    report = check_dataset("gta5", shared_data / "formats", sample=True)
    expected = np.load(shared_data / "formats" / "expected.npz")
    labels = [expected[k] for k in expected if re.match(r"gta5/.*train_id_19", k)]
    (split,) = report.splits
    for i in range(19):
        assert split.class_pixels[i] == sum((x == i).sum() for x in labels)
        assert split.class_images[i] == sum((x == i).any() for x in labels)
    assert split.ignored_pixels == sum((x == 255).sum() for x in labels)
    assert sum(split.label_values.values()) == sum(x.size for x in labels)
    assert sum(split.image_sizes.values()) == len(labels)


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-30])


def _flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)


def _replace_by(content: bytes):
    return lambda path: path.write_bytes(content)


def _become(kind):
    def change(path):
        path.unlink()
        if kind == "folder":
            path.mkdir()
        elif kind == "pipe":
            os.mkfifo(path)
        else:
            path.symlink_to("elsewhere.png")

    return change


def _expand_palette(path):
    Image.open(path).convert("RGB").save(path)


def _grey_colours(path):
    Image.open(path).convert("RGB").convert("L").save(path)


def _save_jpeg(path):
    Image.fromarray(np.asarray(Image.open(path))).save(path, "JPEG")


def _rows_fewer(path):
    files.palette_png(path, np.full((20, 32), 7, np.uint8))


def _strange_value(path):
    label = np.full(files.SIZE, 7, np.uint8)
    label[0, :3] = 99
    Image.fromarray(label).save(path)


def _read_with_eight_bits(path):
    Image.open(path).save(path)


def _synthia(values, dtype=np.uint16):
    def change(path):
        pixels = np.zeros((*files.SIZE, 3), dtype)
        pixels[..., 2] = values
        cv2.imwrite(str(path), pixels)

    return change


def _synthia_colours(path):
    files.save(path, CLASS_SPACES["synthia16"].palette[files.train_ids() % 16])


def _take(ending):
    def change(path):
        other = path.with_name(path.name.replace("_labelIds", ending))
        path.write_bytes(other.read_bytes())

    return change


def _turned_image(path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(files.image(7)).save(path, "JPEG", exif=exif)


GTA_IMAGE, GTA_LABEL = "images/00002.png", "labels/00002.png"
SYNTHIA_LABEL = "RAND_CITYSCAPES/GT/LABELS/0000001.png"
CITY_LABEL = "gtFine/val/lindau/lindau_000000_000019_gtFine_labelIds.png"
FAULTS = {
    "truncated": ("gta5", GTA_IMAGE, _truncate, "corrupt", r"does not decode .*bytes"),
    "bit": ("gta5", GTA_IMAGE, _flip_a_bit, "corrupt", r"wrong checksum in the block"),
    "bad label": (
        "gta5",
        GTA_LABEL,
        _truncate,
        "corrupt",
        r"labels/00002.png does not",
    ),
    "text": (
        "gta5",
        GTA_IMAGE,
        _replace_by(b"x" * 99),
        "no image",
        r"begins with b'xx",
    ),
    "empty": ("gta5", GTA_IMAGE, _replace_by(b""), "no image", r"empty \(0 bytes\)"),
    "zeros": ("gta5", GTA_IMAGE, _replace_by(bytes(99)), "no image", r"but zeros"),
    "web page": (
        *("gta5", GTA_IMAGE, _replace_by(b"\n<!DOCTYPE html><title>Login")),
        *("no image", r"is a web page, expected an image"),
    ),
    "pointer": (
        *("gta5", GTA_LABEL, _replace_by(b"version https://git-lfs.github.com/spec/")),
        *("no image", r"Git LFS pointer"),
    ),
    "folder": ("gta5", GTA_IMAGE, _become("folder"), "unreadable", r"is a folder"),
    "pipe": ("gta5", GTA_IMAGE, _become("pipe"), "unreadable", r"is no plain file"),
    "link": ("gta5", GTA_IMAGE, _become("link"), "missing", r"link to elsewhere.png"),
    "palette expanded": (
        *("gta5", GTA_LABEL, _expand_palette, "encoding"),
        r"is a RGB image in the class colours of cityscapes19, expected a label",
    ),
    "grey colours": (
        *("gta5", GTA_LABEL, _grey_colours, "unknown value"),
        r"class colours turned into grey",
    ),
    "jpeg label": ("gta5", GTA_LABEL, _save_jpeg, "encoding", r"JPEG, whose compress"),
    "value": (
        *("gta5", GTA_LABEL, _strange_value, "unknown value"),
        r"00002\.png holds 99 \(3 pixels\): 0\.39 % .*\(ids 0–34, 255\)",
    ),
    "rows": (
        *("gta5", GTA_LABEL, _rows_fewer, "size"),
        r"labels/00002.png is 32×20, its image .*images/00002.png is 32×24\.",
    ),
    "turned image": (
        *("gta5", GTA_IMAGE, _turned_image, "size"),
        r"is 24×32 once turned upright, as its EXIF orientation 6 says",
    ),
    "8 bits": (
        *("synthia", SYNTHIA_LABEL, _read_with_eight_bits, "encoding"),
        r"8 bits a channel and class 0 only: a reader of 8 bits.* expected 16-bit RGB",
    ),
    "colours": (
        *("synthia", SYNTHIA_LABEL, _synthia_colours, "encoding"),
        r"8 bits a channel in class colours: a file of GT/COLOR",
    ),
    "grey": (
        *("synthia", SYNTHIA_LABEL, lambda p: files.save(p, files.train_ids())),
        *("encoding", r"one channel of uint8: a converted copy"),
    ),
    "void": ("synthia", SYNTHIA_LABEL, _synthia(0), "encoding", r"class 0 only"),
    "id 23": ("synthia", SYNTHIA_LABEL, _synthia(23), "encoding", r"holds id 23"),
    "colour labels": (
        *("cityscapes", CITY_LABEL, _take("_color"), "encoding"),
        r"is a RGBA image in the class colours",
    ),
    "instance ids": (
        *("cityscapes", CITY_LABEL, _take("_instanceIds"), "encoding"),
        r"is an image of instance ids",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_one_bad_file_among_good_ones(tmp_path, name):
    dataset, file, change, kind, said = FAULTS[name]
    root = files.MAKERS[dataset](tmp_path)
    before = check_dataset(dataset, root, sample=True)
    assert not before.errors
    change(root / file)
    report = check_dataset(dataset, root, sample=True)
    (error,) = report.errors
    assert error.kind == kind
    assert re.search(said, error.text), error.text
    assert str(root) in error.text and error.mend and error.split
    assert sum(split.read for split in report.splits) == sum(
        split.found for split in before.splits
    )
    assert sum(split.faulty for split in report.splits) == 1
    with pytest.raises(DataError) as caught:  # preparing says the same of that file
        builder_class = resolve("datasets", dataset)
        config, where = builder_class.locate(root, "")
        for pairs in builder_class.listing(where, config).splits.values():
            for pair in pairs:
                builder_class.encode(pair, config)
    assert "python -m data_prep" in caught.value.hint
    assert pathlib.Path(file).name in caught.value.message


def test_goes_on_after_faults(tmp_path):
    root = files.gta5(tmp_path, count=6)
    _truncate(root / "images" / "00001.png")
    _strange_value(root / "labels" / "00001.png")  # both files of one example
    _expand_palette(root / "labels" / "00003.png")
    (root / "images" / "00004.png").write_bytes(b"")
    (root / "labels" / "00006.png").unlink()
    report = check_dataset("gta5", root, sample=True)
    kinds = [remark.kind for remark in report.errors]
    assert kinds == ["corrupt", "unknown value", "encoding", "no image"]
    (split,) = report.splits
    assert (split.found, split.read, split.faulty) == (5, 5, 3)
    assert split.class_images == (2,) * 19  # 00002 and 00005
    (unknown,) = split.unknown_values
    assert (unknown.value, unknown.pixels, unknown.images) == (99, 3, 1)
    (alone,) = [r for r in report.warnings if r.kind == "unpaired"]
    assert "images/00006.png has no label: left out" in alone.text


def _rgba(path):
    opaque = np.full((*files.SIZE, 1), 255, np.uint8)
    files.save(path, np.concatenate([files.image(7), opaque], axis=2))


def _sixteen_bits(path):
    cv2.imwrite(str(path), files.image(7).astype(np.uint16) * 256)


def _half_turned(path):
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(files.image(7)).save(path, "JPEG", exif=exif)


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        (_rgba, "converted image", "has an alpha channel: dropped"),
        (_sixteen_bits, "converted image", "more than 8 bits a channel: reduced to 8"),
        (_half_turned, "converted image", "EXIF orientation 3: turned upright"),
        (
            lambda path: files.save(path, files.image(7)[..., 0]),
            *("converted image", "is grey: copied to three channels"),
        ),
        (
            lambda path: files.save(path, np.full((*files.SIZE, 3), 4, np.uint8)),
            *("single colour", "is of one colour"),
        ),
        (
            lambda path: shutil.copy(path.with_name("00001.png"), path),
            *("same image", "same bytes as"),
        ),
        (
            lambda path: files.palette_png(
                path.parents[1] / "labels" / path.name, np.zeros(files.SIZE, np.uint8)
            ),
            *("nothing labelled", "no pixel with a class"),
        ),
    ],
)
def test_warnings_of_one_file(tmp_path, change, kind, said):
    root = files.gta5(tmp_path)
    change(root / GTA_IMAGE)
    report = check_dataset("gta5", root, sample=True)
    assert not report.errors
    (warning,) = [r for r in report.warnings if "00002.png" in r.text]
    assert warning.kind == kind and said in warning.text


def test_image_in_two_splits(tmp_path):
    root = files.own_folder(tmp_path)
    shutil.copy(root / "train/images/frame0.png", root / "val/images/frame2.png")
    report = check_dataset("folder", root)
    (warning,) = report.warnings
    assert warning.kind == "image in two splits"
    assert re.search(
        r"val/images/frame2.png .*frame0.png of split 'train'", warning.text
    )


def test_split_without_labels_or_classes(tmp_path):
    root = files.own_folder(tmp_path)
    shutil.rmtree(root / "train" / "labels")
    (root / "classes.txt").write_text("0 road\n1 car\n2 tram\n")
    report = check_dataset("folder", root)
    assert not report.errors
    said = {remark.kind: remark.text for remark in report.warnings}
    assert "train has no labels" in said["no labels"]
    assert "val has no pixel of tram in 3 examples" in said["absent class"]


def test_split_whose_names_do_not_match(tmp_path):
    root = files.own_folder(tmp_path)
    for path in (root / "val" / "labels").iterdir():
        path.rename(path.with_name(f"gt_{path.name}"))
    report = check_dataset("folder", root)
    (error,) = report.errors
    assert error.kind == "no example" and "val has no example" in error.text
    assert len([r for r in report.warnings if r.kind == "unpaired"]) == 6


def test_known_defects_are_looked_at(tmp_path):
    root = files.gta5(tmp_path)
    for name in ("15188", "17705"):
        files.save(root / "images" / f"{name}.png", files.image(int(name)))
        files.palette_png(
            root / "labels" / f"{name}.png", np.full((24, 32), 7, np.uint8)
        )
    _rows_fewer(root / "labels" / "15188.png")
    report = check_dataset("gta5", root, sample=True)
    defect, sound = (r.text for r in report.warnings if r.kind == "defect")
    assert "15188" in defect and "is 32×20, its image" in defect
    assert "17705" in sound and "looks sound" in sound
    assert not report.errors and report.splits[0].found == 3


def test_published_counts(tmp_path):
    root = files.cityscapes(tmp_path)
    errors = check_dataset("cityscapes", root).errors
    assert [error.kind for error in errors] == ["count", "count"]
    assert "train has 1 example, published 2,975" in errors[0].text
    assert "lindau 1 of 59" in errors[1].text and "--sample" in errors[1].mend


def test_absent_classes_of_synthia_are_expected(tmp_path):
    root = files.synthia(tmp_path)
    for path in root.rglob("LABELS/*.png"):
        files.synthia_label(path, np.full(files.SIZE, 3))  # road alone
    options = {"sample": True, "variant": "cityscapes19"}
    report = check_dataset("synthia", root, **options)
    (said,) = [r.text for r in report.warnings if r.kind == "absent class"]
    assert "sidewalk" in said
    assert not re.search(r"\b(road|terrain|truck|train)\b", said.partition("of ")[2])


def test_parts_of_one_file_count_each_for_itself(tmp_path):
    root = files.own_folder(tmp_path, count=1)
    builder_class = resolve("datasets", "folder")
    config, _ = builder_class.locate(root, "")
    (pair,) = builder_class.listing(root, config).splits["val"]
    half = np.zeros(files.SIZE, np.uint8)
    half[:, 20:] = 1
    files.save(pair.label, half)
    parts = [
        check.dataclasses.replace(pair, box=box)
        for box in ((0, 0, 24, 16), (0, 16, 24, 16))
    ]
    found = examine(builder_class, config, parts)
    np.testing.assert_array_equal(found.pixels, [[384, 0, 0], [96, 288, 0]])
    outside = check.dataclasses.replace(pair, box=(0, 20, 24, 16))
    (fault,) = examine(builder_class, config, [outside]).remarks
    assert fault.kind == "size" and "lies outside" in fault.text


def test_threads_and_limit(tmp_path):
    root = files.gta5(tmp_path, count=9)
    _truncate(root / "images" / "00005.png")
    _strange_value(root / "labels" / "00009.png")
    one, many = (check_dataset("gta5", root, sample=True, threads=n) for n in (1, 7))
    assert one.remarks == many.remarks
    assert one.splits[0].class_pixels == many.splits[0].class_pixels
    few = check_dataset("gta5", root, sample=True, limit=3)
    assert few.splits[0].read == 3 and few.splits[0].found == 9
    assert few.num_files == 6


def test_examples_show_every_class(shared_data):
    for report in (
        check_dataset("camvid", shared_data / "camvid", limit=20),
        check_dataset("cityscapes", shared_data / "formats", sample=True),
    ):
        for split in report.splits:
            assert split.read >= len(split.examples) >= min(3, split.read)
            shown = [i for example in split.examples for i in example.shows]
            assert len(shown) == len(set(shown))
            assert set(shown) == set(np.flatnonzero(split.class_pixels).tolist())
            for example in split.examples:
                record = example.load()
                assert record["image"].shape == (*record["label"].shape, 3)
                assert set(example.shows) <= set(np.unique(record["label"]).tolist())
