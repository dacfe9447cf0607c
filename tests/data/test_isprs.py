import itertools

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from data_prep import isprs
from data_prep.tiling import Decoded, starts
from sfda_jax.data.preparation import prepare
from sfda_jax.data.sources import dataset_classes, open_split
from sfda_jax.errors import DataError
from sfda_jax.registry import resolve
from sfda_jax.tasks import class_space
from sfda_jax.types import IGNORE

SIZE = (70, 90)
POTSDAM, VAIHINGEN = "top_potsdam_2_10", "top_mosaic_09cm_area1"


def _save(path, pixels):
    """A GeoTIFF: a TIFF with a pixel scale and a tie point."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, values in ((33550, (0.05, 0.05, 0.0)), (33922, (0.0,) * 6)):
        tags.tagtype[tag] = 12
        tags[tag] = values
    tiff = path.suffix == ".tif"
    Image.fromarray(pixels).save(path, **({"tiffinfo": tags} if tiff else {}))


def _colours(train_ids):
    palette = np.vstack([class_space("isprs6").palette, [[0, 0, 0]]]).astype(np.uint8)
    return palette[np.minimum(train_ids, 6)]


def _example(seed=0, size=SIZE, *, border=False):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    train_ids = rng.integers(0, 6, size).astype(np.uint8)
    if border:
        train_ids[:, 40:43] = IGNORE
    return image, train_ids


@pytest.fixture
def archives(tmp_path):
    """Both towns as their archives extract, and what is in them."""
    root = tmp_path / "isprs"
    image, train_ids = _example(0)
    infrared, _ = _example(1)
    eroded = train_ids.copy()
    eroded[:, 40:43] = IGNORE
    potsdam, vaihingen = root / "Potsdam", root / "Vaihingen"
    _save(potsdam / "2_Ortho_RGB" / f"{POTSDAM}_RGB.tif", image)
    _save(potsdam / "3_Ortho_IRRG" / f"{POTSDAM}_IRRG.tif", infrared)
    _save(vaihingen / "top" / f"{VAIHINGEN}.tif", infrared)
    for labels, ending in ((train_ids, ""), (eroded, "_noBoundary")):
        name = f"{POTSDAM}_label{ending}.tif"
        _save(potsdam / f"5_Labels_all{ending}" / name, _colours(labels))
        _save(vaihingen / f"gt{ending}" / f"{VAIHINGEN}{ending}.tif", _colours(labels))
    return root, {"rgb": image, "irrg": infrared, "": train_ids, "eroded": eroded}


def _listing(root, variant=""):
    builder_class = resolve("datasets", "isprs")
    config, root = builder_class.locate(root, variant)
    return builder_class, config, builder_class.listing(root, config)


@pytest.mark.parametrize("labels", ["", "eroded"])
def test_tiles_put_together_are_the_image(archives, tmp_path, labels):
    root, known = archives
    variant = "-".join(filter(None, ["isprs6", labels, "tile32", "stride20"]))
    builder = prepare("isprs", data_dir=tmp_path, manual_dir=root, variant=variant)
    assert set(builder.info.splits) == {"potsdam_rgb", "potsdam_irrg", "vaihingen_irrg"}
    for split in builder.info.splits:
        band = split.split("_")[1]
        covered = np.zeros(SIZE, bool)
        for record in open_split(builder, split, labelled=True):
            name, top, left = record["id"].rsplit("_", 2)
            assert name == (POTSDAM if "potsdam" in split else VAIHINGEN)
            at = np.s_[int(top) : int(top) + 32, int(left) : int(left) + 32]
            np.testing.assert_array_equal(record["image"], known[band][at])
            np.testing.assert_array_equal(record["label"], known[labels][at])
            covered[at] = True
        assert covered.all()


def test_tiles_are_stored_at_another_size(archives, tmp_path):
    builder = prepare(
        "isprs", data_dir=tmp_path, manual_dir=archives[0], variant="tile64-16x16"
    )
    source = open_split(builder, "potsdam_rgb", labelled=True)
    assert len(source) == 4
    assert all(r["image"].shape == (16, 16, 3) for r in source)
    assert all(r["label"].shape == (16, 16) for r in source)


def test_an_image_is_decoded_once_for_its_tiles(archives, monkeypatch):
    read = []

    def counting(path, *, dataset):
        read.append(path.name)
        return rgb_pixels(path, dataset=dataset)

    rgb_pixels = isprs.rgb_pixels
    monkeypatch.setattr(isprs, "rgb_pixels", counting)
    monkeypatch.setattr(isprs, "_DECODED", Decoded())
    builder_class, config, listing = _listing(archives[0], "tile32")
    for pair in listing.splits["potsdam_rgb"]:
        builder_class.encode(pair, config)
    assert sorted(read) == [f"{POTSDAM}_RGB.tif", f"{POTSDAM}_label.tif"]


def test_a_file_written_anew_is_decoded_anew(archives):
    builder_class, config, listing = _listing(archives[0], "tile32")
    pair = listing.splits["potsdam_rgb"][0]
    before = builder_class.train_ids(pair, config)
    train_ids = (archives[1][""] + 1) % 6
    _save(pair.label, _colours(train_ids))
    np.testing.assert_array_equal(builder_class.train_ids(pair, config), train_ids)
    assert not np.array_equal(before, train_ids)


def test_cut_folders_and_published_bytes(tmp_path):
    """The other layout; images no larger than a tile are stored as they are."""
    town = tmp_path / "Vaihingen"
    for split in ("train", "val"):
        image, train_ids = _example(border=True)
        _save(town / f"{split}_images" / "area1_0_0.png", image)
        _save(town / f"{split}_gt" / "area1_0_0.png", _colours(train_ids))
    builder_class, config, listing = _listing(tmp_path)
    assert set(listing.splits) == {"vaihingen_train", "vaihingen_val"}
    (pair,) = listing.splits["vaihingen_train"]
    assert pair.id == "area1_0_0" and pair.box is None
    example = builder_class.encode(pair, config)
    assert example["image"].getvalue() == pair.image.read_bytes()
    np.testing.assert_array_equal(builder_class.train_ids(pair, config), train_ids)
    for path in (town / "train_gt").iterdir():
        path.unlink()
    (town / "train_gt").rmdir()
    assert _listing(tmp_path)[2].unlabelled == ("vaihingen_train",)


def test_images_without_label_are_listed(archives):
    """And the complete labels are preferred to the participants'."""
    root, known = archives
    _save(root / "Vaihingen" / "top" / "top_mosaic_09cm_area2.tif", known["irrg"])
    other = _colours((known[""] + 1) % 6)
    name = f"{VAIHINGEN}.tif"
    _save(root / "Vaihingen" / "gts_for_participants" / name, other)
    builder_class, config, listing = _listing(root)
    assert [(f.kind, f.id) for f in listing.findings] == [
        ("unpaired", "top_mosaic_09cm_area2")
    ]
    (pair,) = listing.splits["vaihingen_irrg"]
    np.testing.assert_array_equal(builder_class.train_ids(pair, config), known[""])


def test_town_folder_itself(archives):
    assert set(_listing(archives[0] / "Potsdam")[2].splits) == {
        *("potsdam_rgb", "potsdam_irrg")
    }


def test_unknown_colour_names_file_and_colour(archives):
    builder_class, config, listing = _listing(archives[0])
    (pair,) = listing.splits["potsdam_rgb"]
    wrong = _colours(archives[1][""])
    wrong[5, 6] = 252, 255, 0
    _save(pair.label, wrong)
    match = r"_label\.tif holds the colour \(252, 255, 0\), expected impervious"
    with pytest.raises(DataError, match=match):
        builder_class.train_ids(pair, config)


def test_size_of_another_image(archives):
    builder_class, config, listing = _listing(archives[0], "tile32")
    pair = listing.splits["potsdam_rgb"][0]
    _save(pair.label, _colours(archives[1][""][:-1]))
    with pytest.raises(DataError, match="is 90×69, expected 90×70"):
        builder_class.encode(pair, config)


@pytest.mark.parametrize(
    ("variant", "found"),
    [
        ("tile0", "tiles of 0"),
        ("tile32-stride64", "tiles of 32 at a stride of 64"),
        ("tile", "unknown 'tile'.*tileNUMBER"),
        ("step32", "unknown 'step32'"),
    ],
)
def test_variants_that_cannot_be(archives, variant, found):
    with pytest.raises(DataError, match=found):
        _listing(archives[0], variant)


def test_missing_files(archives, tmp_path):
    with pytest.raises(DataError, match="no images of Potsdam or Vaihingen"):
        _listing(tmp_path / "nowhere")
    for path in archives[0].rglob("*_noBoundary.tif"):
        path.unlink()
    with pytest.raises(DataError, match="ends with _noBoundary"):
        _listing(archives[0], "eroded")


def test_what_is_no_image(archives):
    image = archives[0] / "Potsdam" / "2_Ortho_RGB" / f"{POTSDAM}_RGB.tif"
    image.write_bytes(b"<html>log in")
    with pytest.raises(DataError, match=r"_RGB\.tif is a web page"):
        _listing(archives[0])


def test_classes(archives, tmp_path):
    builder = prepare("isprs", data_dir=tmp_path, manual_dir=archives[0])
    classes = dataset_classes(builder)
    assert classes.num_classes == 6
    assert classes.subsets == {"mIoU6": tuple(range(6)), "mIoU5": tuple(range(5))}


@pytest.mark.parametrize("length", [1, 31, 32, 33, 63, 64, 65, 100])
@pytest.mark.parametrize("stride", [1, 20, 32])
def test_starts_cover_the_length(length, stride):
    found = starts(length, 32, stride)
    assert found == sorted(set(found))
    assert all(b - a <= stride for a, b in itertools.pairwise(found))
    assert found[0] == 0 and found[-1] == max(length - 32, 0)
