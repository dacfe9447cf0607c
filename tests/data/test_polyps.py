import numpy as np
import pytest
from PIL import Image

from sfda_jax.data.preparation import prepare
from sfda_jax.data.sources import dataset_classes, open_split
from sfda_jax.errors import DataError
from sfda_jax.registry import resolve

SIZE = (24, 32)


def _mask():
    mask = np.zeros(SIZE, np.uint8)
    mask[8:16, 8:24] = 255
    return mask


def _write(folder, stem, suffix, mask):
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "images" / f"{stem}{suffix}")
    mask.save(folder / "masks" / f"{stem}{suffix}")
    return pixels


def _listing(root):
    builder_class = resolve("datasets", "polyps")
    config, root = builder_class.locate(root, "")
    return builder_class, config, builder_class.listing(root, config)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".bmp"])
@pytest.mark.parametrize("mode", ["L", "RGB", "1", "P"])
def test_masks_of_every_kind(tmp_path, suffix, mode):
    if suffix == ".jpg" and mode in "1P":
        mode = "L"
    folder = tmp_path / "polyps" / "ETIS-LaribPolypDB"
    mask = Image.fromarray(_mask()).convert(mode)
    pixels = _write(folder, "1", suffix, mask)
    builder = prepare("polyps", data_dir=tmp_path, manual_dir=tmp_path)
    (record,) = open_split(builder, "etis", labelled=True)
    np.testing.assert_array_equal(record["label"], _mask() // 255)
    if suffix != ".jpg":
        np.testing.assert_array_equal(record["image"], pixels)


def test_collections_and_their_parts(tmp_path):
    mask = Image.fromarray(_mask())
    for split in ("train", "test"):
        _write(tmp_path / "EndoScene" / split, split, ".bmp", mask)
    _write(tmp_path / "ETIS-Larib", "1", ".tif", mask)
    _write(tmp_path / "ETIS-Larib", "2", ".tif", mask)
    (tmp_path / "ETIS-Larib" / "masks" / "2.tif").unlink()
    for path in (tmp_path / "EndoScene" / "train" / "masks").iterdir():
        path.unlink()
    (tmp_path / "EndoScene" / "train" / "masks").rmdir()
    _, _, listing = _listing(tmp_path)
    found = {split: [p.id for p in pairs] for split, pairs in listing.splits.items()}
    assert found == {
        "endoscene_train": ["train"],
        "endoscene_test": ["test"],
        "etis": ["1"],
    }
    assert listing.unlabelled == ("endoscene_train",)
    assert [(f.kind, f.id) for f in listing.findings] == [("unpaired", "2")]


def test_image_without_a_polyp(tmp_path):
    black = Image.fromarray(np.zeros(SIZE, np.uint8))
    _write(tmp_path / "EndoScene", "1", ".png", black)
    builder_class, config, listing = _listing(tmp_path)
    (pair,) = listing.splits["endoscene"]
    assert not builder_class.train_ids(pair, config).any()


@pytest.mark.parametrize(
    ("mask", "found"),
    [
        (_mask() // 255, "nothing brighter than 1"),
        (np.stack([_mask(), 0 * _mask(), 0 * _mask()], axis=-1), "colours"),
    ],
)
def test_masks_of_another_encoding_are_refused(tmp_path, mask, found):
    _write(tmp_path / "EndoScene", "1", ".png", Image.fromarray(mask))
    builder_class, config, listing = _listing(tmp_path)
    (pair,) = listing.splits["endoscene"]
    with pytest.raises(DataError, match=rf"1\.png holds {found}"):
        builder_class.train_ids(pair, config)


def test_folders_of_other_names_are_refused(tmp_path):
    _write(tmp_path / "Kvasir", "1", ".png", Image.fromarray(_mask()))
    with pytest.raises(DataError, match=r"holds no images/.*EndoScene"):
        _listing(tmp_path)
    for name in ("EndoScene", "CVC-EndoSceneStill"):
        _write(tmp_path / name, "1", ".png", Image.fromarray(_mask()))
    with pytest.raises(DataError, match="second folder of split 'endoscene'"):
        _listing(tmp_path)


def test_classes(tmp_path):
    _write(tmp_path / "EndoScene", "1", ".png", Image.fromarray(_mask()))
    builder = prepare("polyps", data_dir=tmp_path, manual_dir=tmp_path, variant="16x16")
    classes = dataset_classes(builder)
    assert classes.names == ("background", "polyp")
    assert classes.subsets == {"mIoU2": (0, 1), "IoU_polyp": (1,)}
    (record,) = open_split(builder, "endoscene", labelled=True)
    assert record["image"].shape == (16, 16, 3)
    assert set(np.unique(record["label"])) == {0, 1}
