import errno
import io
import pathlib
import shutil

import cv2
import numpy as np
import pytest
from PIL import Image

from data_prep.__main__ import main
from data_prep.listing import Pair
from data_prep.reading import image_bytes, label_values
from sfda_jax.data import preparation
from sfda_jax.data.preparation import prepare
from sfda_jax.data.sources import dataset_classes, example_ids, open_split
from sfda_jax.errors import ConfigError, DataError
from sfda_jax.registry import list_names, resolve


def _pair(folder: pathlib.Path, stem: str, *, size=(12, 16), value=0):
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "labels").mkdir(exist_ok=True)
    image = np.full((*size, 3), 90, np.uint8)
    image[: size[0] // 2] = 10, 200, 30
    Image.fromarray(image).save(folder / "images" / f"{stem}.png")
    label = np.full(size, value, np.uint8)
    Image.fromarray(label).save(folder / "labels" / f"{stem}.png")


@pytest.fixture
def own_folder(tmp_path):
    root = tmp_path / "my_city"
    for split in ("train", "val"):
        for i in range(3):
            _pair(root / split, f"frame{i}", value=i % 2)
    (root / "classes.txt").write_text("0 road\n1 car\n")
    return root


def _prepare(root, **kwargs):
    where = {"data_dir": root.parent / "prepared", "manual_dir": root}
    return prepare("folder", **{**where, **kwargs})


def test_cityscapes_without_training_labels(shared_data, tmp_path):
    root = tmp_path / "files"
    shutil.copytree(shared_data / "formats" / "cityscapes", root)
    shutil.rmtree(root / "gtFine" / "train")
    builder = prepare("cityscapes", data_dir=tmp_path, manual_dir=root)
    assert len(open_split(builder, "train", labelled=False)) == 2
    with pytest.raises(DataError, match="prepared without labels of 'train'"):
        open_split(builder, "train", labelled=True)


def test_synthia_refuses_an_eight_bit_copy(shared_data, tmp_path):
    root = tmp_path / "RAND_CITYSCAPES"
    shutil.copytree(shared_data / "formats" / "synthia" / "RAND_CITYSCAPES", root)
    label = root / "GT" / "LABELS" / "0000000.png"
    Image.open(label).save(label)  # as a reader of eight bits would write it
    with pytest.raises(DataError, match=r"0000000\.png holds 8 bits .*expected 16-bit"):
        prepare("synthia", data_dir=tmp_path, manual_dir=root)
    cv2.imwrite(str(label), np.zeros((48, 96, 3), np.uint16))
    with pytest.raises(DataError, match="holds class 0 only"):
        prepare("synthia", data_dir=tmp_path, manual_dir=root)


def test_camvid_layouts_agree(shared_data, tmp_path):
    """The SegNet edition, cut by the name lists, is our own split."""
    ours = shared_data / "camvid"
    edition = tmp_path / "edition"
    splits = pathlib.Path(preparation.__file__).parents[2] / "data_prep" / "splits"
    for split in ("day_train", "day_val", "dusk_train", "dusk_test"):
        folder = ours.joinpath(*split.split("_"))
        labels = next(folder.glob("labels*"))
        for line in (splits / f"camvid_{split}.txt").read_text().split():
            part, name = line.split("/")
            for target in (edition / part, edition / f"{part}annot"):
                target.mkdir(parents=True, exist_ok=True)
            stem = pathlib.Path(name).stem
            (edition / part / name).symlink_to(folder / "images" / f"{stem}.jpg")
            (edition / f"{part}annot" / name).symlink_to(labels / name)
    first, second = (
        prepare("camvid", data_dir=tmp_path / root.name, manual_dir=root)
        for root in (ours, edition)
    )
    sizes = {name: info.num_examples for name, info in first.info.splits.items()}
    assert sizes == {
        "day_train": 337,
        "day_val": 36,
        "dusk_train": 44,
        "dusk_test": 38,
    }
    for split in sizes:
        a, b = (open_split(x, split, labelled=True) for x in (first, second))
        for i in (0, len(a) // 2, len(a) - 1):
            assert a[i]["id"] == b[i]["id"]
            np.testing.assert_array_equal(a[i]["image"], b[i]["image"])
            np.testing.assert_array_equal(a[i]["label"], b[i]["label"])
            assert a[i]["label"].max() == 255  # void


def test_folder_of_a_user(own_folder):
    builder = _prepare(own_folder)
    source = open_split(builder, "train", labelled=True)
    assert [record["id"] for record in source] == ["frame0", "frame1", "frame2"]
    assert [int(record["label"][0, 0]) for record in source] == [0, 1, 0]
    assert source[0]["image"][0, 0].tolist() == [10, 200, 30]
    classes = dataset_classes(builder)
    assert classes.name == "my_city" and classes.names == ("road", "car")


def test_folder_keeps_published_bytes(own_folder):
    path = own_folder / "train" / "images" / "frame0.png"
    assert image_bytes(path, dataset="folder")[0] == path.read_bytes()


def test_folder_without_training_labels(own_folder):
    shutil.rmtree(own_folder / "train" / "labels")
    builder = _prepare(own_folder)
    assert "label" not in open_split(builder, "train", labelled=False)[0]
    with pytest.raises(DataError, match="without labels"):
        open_split(builder, "train", labelled=True)
    assert len(open_split(builder, "val", labelled=True)) == 3


def test_edited_folder_is_prepared_anew(own_folder):
    before = _prepare(own_folder)
    _pair(own_folder / "train", "frame9")
    after = _prepare(own_folder)
    assert before.data_dir != after.data_dir
    assert after.info.splits["train"].num_examples == 4


def test_variant_is_a_subfolder(own_folder):
    builder = _prepare(own_folder.parent, variant="my_city", data_dir=own_folder / "p")
    assert dataset_classes(builder).name == "my_city"


def _break(own_folder, how):
    images, labels = (own_folder / "val" / name for name in ("images", "labels"))
    if how == "no folder":
        shutil.rmtree(images)
    elif how == "no images":
        for path in images.iterdir():
            path.unlink()
    elif how == "value":
        Image.fromarray(np.full((12, 16), 7, np.uint8)).save(labels / "frame1.png")
    elif how == "colour label":
        Image.new("RGB", (16, 12)).save(labels / "frame1.png")
    elif how == "size":
        Image.fromarray(np.zeros((11, 16), np.uint8)).save(labels / "frame1.png")
    elif how == "truncated":
        path = images / "frame1.png"
        path.write_bytes(path.read_bytes()[:-30])
    elif how == "twice":
        Image.new("RGB", (16, 12)).save(images / "frame1.jpg")
    elif how == "no class file":
        (own_folder / "classes.txt").unlink()


@pytest.mark.parametrize(
    ("how", "found"),
    [
        ("no folder", r"val/images not found"),
        ("no images", r"val/images holds no image"),
        ("value", r"val/labels/frame1\.png holds value 7, .*ids 0–1, 255"),
        ("colour label", r"val/labels/frame1\.png is a RGB image, expected a label"),
        ("size", r"labels/frame1\.png is 16×11, expected 16×12 like .*frame1\.png"),
        ("truncated", r"val/images/frame1\.png does not decode"),
        ("twice", r"frame1\.jpg and .*frame1\.png share the id 'frame1'"),
        ("no class file", r"classes\.txt not found"),
    ],
)
def test_faults_name_the_file_and_leave_no_set(own_folder, how, found):
    _break(own_folder, how)
    with pytest.raises(DataError, match=found) as caught:
        _prepare(own_folder)
    assert "python -m data_prep" in str(caught.value) or how == "no class file"
    prepared = own_folder.parent / "prepared"
    left = {p.parent.parent.name for p in prepared.rglob("*.array_record-*")}
    assert left <= {".partial"} and not list(prepared.rglob("dataset_info.json"))


def test_unpaired_files_are_left_out(own_folder, caplog):
    (own_folder / "val" / "labels" / "frame1.png").unlink()
    (own_folder / "val" / "images" / "frame2.png").unlink()
    builder = _prepare(own_folder)
    assert [r["id"] for r in open_split(builder, "val", labelled=True)] == ["frame0"]
    assert builder.info.metadata["left_out"] == {"unpaired": ["frame1", "frame2"]}
    assert "images/frame1.png has no label: left out" in caplog.text


def test_split_without_a_pair(own_folder):
    for path in (own_folder / "val" / "labels").iterdir():
        path.rename(path.with_name(f"label_{path.name}"))
    with pytest.raises(DataError, match=r"Split 'val' .* has no example.*no label"):
        _prepare(own_folder)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk(own_folder, monkeypatch, code):
    def fails(*_, **__):
        raise RuntimeError("writer failed") from OSError(code, "full")

    builder_class = resolve("datasets", "folder")
    monkeypatch.setattr(builder_class, "encode", fails)
    with pytest.raises(DataError, match=r"No space left .*SFDA_JAX_DATA"):
        _prepare(own_folder)
    monkeypatch.undo()
    assert len(open_split(_prepare(own_folder), "train", labelled=True)) == 3


def test_unwritable_data_dir(own_folder, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(DataError, match=r"file.* cannot be used .*SFDA_JAX_DATA"):
        _prepare(own_folder, data_dir=blocked / "inside")


def test_reuse_needs_no_files(own_folder, tmp_path):
    scenes = prepare("scenes", data_dir=tmp_path, variant="24x48-4")
    stamp = pathlib.Path(scenes.data_dir).stat().st_mtime_ns
    prepare("scenes", data_dir=tmp_path, variant="24x48-4")
    assert pathlib.Path(scenes.data_dir).stat().st_mtime_ns == stamp


@pytest.mark.parametrize(
    "variant", ["", "96x192", "192x384", "48x96-16", "weather-48x96-16"]
)
def test_every_scene_size_has_a_builder(tmp_path, variant):
    builder_class = resolve("datasets", "scenes")
    config, _ = builder_class.locate(None, variant)
    assert builder_class(data_dir=tmp_path, config=config).builder_config is config
    assert config.name == (variant or "96x192")


def test_weathers_are_splits_without_a_common_scene(tmp_path):
    builder = prepare("scenes", data_dir=tmp_path, variant="weather-16x32-4")
    ids = {split: example_ids(builder, split) for split in builder.info.splits}
    assert {split: len(found) for split, found in ids.items()} == {
        **{f"{look}_train": 4 for look in ("day", "haze", "dusk", "day2")},
        **{f"{look}_test": 1 for look in ("day", "haze", "dusk")},
    }
    numbers = [name.split("_")[1] for found in ids.values() for name in found]
    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize("dataset", ["camvid", "gta5", "folder"])
def test_missing_manual_dir(tmp_path, dataset):
    with pytest.raises(DataError, match=f"python -m data_prep {dataset}"):
        prepare(dataset, data_dir=tmp_path)


def test_unknown_names(tmp_path):
    with pytest.raises(ConfigError, match="Did you mean 'camvid'"):
        prepare("camvit", data_dir=tmp_path)
    with pytest.raises(DataError, match=r"no variant 'large'.*96x192"):
        prepare("scenes", data_dir=tmp_path, variant="large")
    with pytest.raises(DataError, match=r"no variant 'x'.*cityscapes19"):
        prepare("gta5", data_dir=tmp_path, variant="x")
    assert {"camvid", "scenes", "gta5", "cityscapes", "synthia", "folder"} <= set(
        list_names("datasets")
    )


def test_command(own_folder, tmp_path, caplog):
    arguments = ["folder", f"--data_dir={tmp_path / 'p'}"]
    assert main(arguments) == 1
    assert "manual_dir is not set" in caplog.text
    assert main([*arguments, f"--manual_dir={own_folder}"]) == 0


def _saved(image: Image.Image, tmp_path, name="image.png", **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "I;16", "1"])
def test_odd_image_modes_become_rgb(tmp_path, mode):
    if mode == "I;16":
        image = Image.fromarray(np.full((8, 6), 200 << 8, np.uint16))
    else:
        image = Image.new("L", (6, 8), 200).convert(mode)
    data, size = image_bytes(_saved(image, tmp_path), dataset="x")
    decoded = np.asarray(Image.open(io.BytesIO(data)))
    assert size == (8, 6) and decoded.shape == (8, 6, 3) and decoded.dtype == np.uint8
    assert decoded.max() >= 200


def test_sixteen_bit_and_rotated_images(tmp_path):
    path = tmp_path / "deep.png"
    cv2.imwrite(str(path), np.full((8, 6, 3), 200 << 8, np.uint16))
    data, _ = image_bytes(path, dataset="x")
    assert np.asarray(Image.open(io.BytesIO(data)))[0, 0].tolist() == [200] * 3
    exif = Image.Exif()
    exif[0x0112] = 6  # quarter turn
    path = _saved(Image.new("RGB", (6, 8)), tmp_path, "turned.jpg", exif=exif)
    assert image_bytes(path, dataset="x")[1] == (6, 8)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_label_values_of_low_bit_depth(tmp_path, bits):
    values = np.arange(2**bits, dtype=np.uint8).reshape(1, -1)
    palette = Image.fromarray(values, "P") if bits == 8 else Image.fromarray(values)
    palette.putpalette([i % 256 for i in range(768)])
    path = _saved(palette, tmp_path, "palette.png", bits=bits)
    np.testing.assert_array_equal(label_values(path, dataset="x"), values)
    path = tmp_path / "grey.png"
    path.write_bytes(_grey_png(values, bits))
    np.testing.assert_array_equal(label_values(path, dataset="x"), values)


def _grey_png(values, bits):
    """A grey PNG of a given bit depth; no library of ours writes one."""
    import struct
    import zlib

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    height, width = values.shape
    digits = (values[..., None] >> np.arange(bits - 1, -1, -1)) & 1
    rows = np.packbits(digits.reshape(height, -1).astype(np.uint8), axis=1)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(raw))
        + chunk(b"IEND", b"")
    )


def test_unlabelled_example_is_ignored_everywhere(tmp_path):
    builder_class = resolve("datasets", "gta5")
    config, _ = builder_class.locate(None, "")
    path = _saved(Image.new("RGB", (6, 8)), tmp_path)
    features = builder_class.encode(Pair(id="image", image=path), config)
    label = np.asarray(Image.open(features["label"]))
    assert label.shape == (8, 6) and (label == 255).all()
