"""Every published sample, through its builder, against the recorded train ids."""

import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

from data_prep.synthia import label_channels
from sfda_jax.data.preparation import prepare
from sfda_jax.data.sources import dataset_classes, open_split
from sfda_jax.errors import DataError
from sfda_jax.registry import resolve
from sfda_jax.tasks import CLASS_SPACES

SPACES = {"19": "cityscapes19", "16": "synthia16", "13": "crosscity13"}
DATASETS = (
    *("gta5", "synthia", "cityscapes", "acdc", "dark_zurich", "bdd100k", "crosscity"),
)


@pytest.fixture(scope="module")
def formats(shared_data):
    return shared_data / "formats"


@pytest.fixture(scope="module")
def expected(formats):
    """(dataset, id, what) → array."""
    with np.load(formats / "expected.npz") as file:
        return {tuple(key.split("/")): file[key] for key in file}


def _listing(dataset: str, root: pathlib.Path, variant: str = ""):
    builder_class = resolve("datasets", dataset)
    config, root = builder_class.locate(root, variant)
    return builder_class, config, builder_class.listing(root, config)


def _labelled(listing):
    pairs = [pair for pairs in listing.splits.values() for pair in pairs if pair.label]
    assert len({pair.id for pair in pairs}) == len(pairs)
    return {pair.id: pair for pair in pairs}


def _ids(listing):
    return {split: [p.id for p in pairs] for split, pairs in listing.splits.items()}


def test_every_dataset_of_the_samples_is_covered(expected):
    assert {dataset for dataset, _, _ in expected} <= set(DATASETS)


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("width", SPACES)
def test_labels(formats, expected, dataset, width):
    builder_class, config, listing = _listing(dataset, formats, SPACES[width])
    samples = {
        example: array
        for (name, example, what), array in expected.items()
        if (name, what) == (dataset, f"train_id_{width}")
    }
    pairs = _labelled(listing)
    assert set(pairs) == set(samples)
    for example, array in samples.items():
        train_ids = builder_class.train_ids(pairs[example], config)
        assert train_ids.dtype == np.uint8
        np.testing.assert_array_equal(train_ids, array, strict=True)


def test_synthia_instances(formats, expected):
    pairs = _labelled(_listing("synthia", formats)[2])
    checked = [k for k in expected if k[2] == "instance_id"]
    assert checked
    for key in checked:
        found = label_channels(pairs[key[1]].label)[..., 1]
        np.testing.assert_array_equal(found, expected[key], strict=True)


@pytest.mark.parametrize("dataset", DATASETS)
def test_prepared_whole(formats, expected, dataset, tmp_path):
    space = "crosscity13" if dataset == "crosscity" else "synthia16"
    what = f"train_id_{CLASS_SPACES[space].num_classes}"
    builder = prepare(dataset, data_dir=tmp_path, manual_dir=formats, variant=space)
    assert dataset_classes(builder).name == space
    listing = _listing(dataset, formats, space)[2]
    for split, pairs in listing.splits.items():
        labelled = split not in listing.unlabelled
        source = open_split(builder, split, labelled=labelled)
        assert [record["id"] for record in source] == [pair.id for pair in pairs]
        for record, pair in zip(source, pairs, strict=True):
            with Image.open(pair.image) as image:
                pixels = np.asarray(image)
            if pair.image.suffix == ".png":
                np.testing.assert_array_equal(record["image"], pixels)
            assert record["image"].shape == pixels.shape
            if labelled:
                label = expected[dataset, pair.id, what]
                np.testing.assert_array_equal(record["label"], label)
        if not labelled:
            with pytest.raises(DataError, match="prepared without labels"):
                open_split(builder, split, labelled=True)


def test_gta5_defect_is_left_out(formats):
    _, _, listing = _listing("gta5", formats)
    assert _ids(listing)["train"] == ["00001", "00002", "00003"]
    (finding,) = listing.findings
    assert finding.kind == "defect" and not finding.error
    assert finding.id == "15188" and "15188.png" in finding.text


def test_acdc_splits(formats):
    _, _, listing = _listing("acdc", formats)
    assert _ids(listing) == {
        "fog_val": ["GOPR0476_frame_000854"],
        "night_train": ["GOPR0351_frame_000159"],
        "night_test": ["GOPR0364_frame_000001"],
        "night_train_ref": ["GOPR0351_frame_000159"],
    }
    assert set(listing.unlabelled) == {"night_test", "night_train_ref"}
    (frame,), (reference,) = (
        listing.splits[split] for split in ("night_train", "night_train_ref")
    )
    assert "_ref" not in str(frame.image) and reference.label is None
    assert "_ref_" in reference.image.name


@pytest.mark.parametrize("dataset", ["acdc", "dark_zurich"])
def test_archives_in_folders_of_their_own(formats, tmp_path, dataset):
    root = tmp_path / "Mein Gerät"
    shutil.copytree(formats / dataset / "rgb_anon", root / "rgb_anon_all" / "rgb_anon")
    shutil.copytree(formats / dataset / "gt", root / "gt_trainval" / "gt")
    _, _, together = _listing(dataset, formats)
    _, _, apart = _listing(dataset, root)
    assert _ids(apart) == _ids(together)
    assert _labelled(apart).keys() == _labelled(together).keys()


def test_dark_zurich_archives_add_up(formats, tmp_path):
    published = formats / "dark_zurich" / "rgb_anon"
    train, val = tmp_path / "train_anon", tmp_path / "val_anon"
    shutil.copytree(published / "train", train / "rgb_anon" / "train")
    shutil.copytree(published / "val", val / "rgb_anon" / "val")
    shutil.copytree(formats / "dark_zurich" / "gt", val / "gt")
    frame = published / "train" / "night" / "GOPR0345"
    recording = val / "rgb_anon" / "val_ref" / "day" / "GOPR0356_ref"
    recording.mkdir(parents=True)
    name = "GOPR0356_frame_000321_ref_rgb_anon.png"
    shutil.copy(next(frame.iterdir()), recording / name)
    _, _, listing = _listing("dark_zurich", tmp_path)
    assert _ids(listing) == {
        "night_train": ["GOPR0345_frame_000001"],
        "night_val": ["GOPR0356_frame_000321"],
        "day_val_ref": ["GOPR0356_frame_000321"],
    }
    assert listing.unlabelled == ("night_train", "day_val_ref")


@pytest.mark.parametrize("dataset", ["acdc", "dark_zurich"])
def test_label_ids_stand_in_for_train_ids(formats, expected, tmp_path, dataset):
    """And `invIds` change nothing."""
    shutil.copytree(formats / dataset, tmp_path / dataset)
    for path in (tmp_path / dataset).rglob("*_labelTrainIds.png"):
        path.unlink()
    builder_class, config, listing = _listing(dataset, tmp_path)
    for pair in _labelled(listing).values():
        assert pair.label.name.endswith("_labelIds.png")
        np.testing.assert_array_equal(
            builder_class.train_ids(pair, config),
            expected[dataset, pair.id, "train_id_19"],
        )


def test_acdc_without_labels(formats, tmp_path):
    shutil.copytree(formats / "acdc" / "rgb_anon", tmp_path / "rgb_anon")
    with pytest.raises(DataError, match=r"holds no fog/val/.*labelTrainIds"):
        _listing("acdc", tmp_path)
    shutil.rmtree(tmp_path / "rgb_anon" / "fog")
    _, _, listing = _listing("acdc", tmp_path)
    assert "night_train" in listing.unlabelled


@pytest.mark.parametrize("dataset", ["acdc", "dark_zurich", "bdd100k", "crosscity"])
def test_another_folder_is_refused(tmp_path, dataset):
    with pytest.raises(DataError, match=r"holds n.*python -m data_prep"):
        _listing(dataset, tmp_path)


def test_bdd100k_unpaired_files_are_listed(formats, tmp_path):
    shutil.copytree(formats / "bdd100k", tmp_path / "bdd100k")
    images = tmp_path / "bdd100k" / "images" / "10k"
    shutil.copy(next((images / "val").iterdir()), images / "val" / "lonely.JPG")
    (images / "test").mkdir()
    shutil.copy(images / "val" / "lonely.JPG", images / "test" / "seen.jpeg")
    _, _, listing = _listing("bdd100k", tmp_path)
    assert _ids(listing) == {
        "train": ["0004a4c0-d4dff0ad"],
        "val": ["7d06fefd-f7be05a6"],
        "test": ["seen"],
    }
    assert listing.unlabelled == ("test",)
    assert {(f.kind, f.id) for f in listing.findings} == {
        ("defect", "3d581db5-2564fb7e"),
        ("defect", "fee92217-63b3f87f"),
        ("unpaired", "lonely"),
    }
    assert not any(finding.error for finding in listing.findings)
    assert listing.published == {"train": 6996, "val": 998, "test": 2000}


def test_bdd100k_old_packaging(formats, expected, tmp_path):
    new = formats / "bdd100k"
    for split in ("train", "val"):
        images, labels = (tmp_path / "seg" / f / split for f in ("images", "labels"))
        shutil.copytree(new / "images" / "10k" / split, images)
        labels.mkdir(parents=True)
        for path in (new / "labels" / "sem_seg" / "masks" / split).iterdir():
            shutil.copy(path, labels / f"{path.stem}_train_id.png")
    builder_class, config, listing = _listing("bdd100k", tmp_path)
    assert {finding.kind for finding in listing.findings} == {"unpaired"}
    assert {**builder_class.published, **listing.published}["train"] == 7000
    for pair in _labelled(listing).values():
        np.testing.assert_array_equal(
            builder_class.train_ids(pair, config),
            expected["bdd100k", pair.id, "train_id_19"],
        )
    shutil.copytree(new / "images", tmp_path / "images")
    shutil.copytree(new / "labels", tmp_path / "labels")
    _, _, both = _listing("bdd100k", tmp_path)
    assert [f.kind for f in both.findings].count("layout") == 1
    assert all("seg/" not in str(pair.image) for pair in both.splits["train"])


def test_crosscity_train_has_no_labels(formats):
    _, config, listing = _listing("crosscity", formats)
    assert config.space == "crosscity13"
    assert _ids(listing) == {
        "rio_train": ["pano_00001_2_180"],
        "rio_test": ["pano_00002_0_0"],
    }
    assert listing.unlabelled == ("rio_train",)


def test_crosscity_cities(formats, tmp_path):
    root = tmp_path / "crosscity" / "NTHU_Datasets"
    shutil.copytree(formats / "crosscity" / "Rio", root / "Rio")
    shutil.copytree(formats / "crosscity" / "Rio", root / "Tokyo")
    shutil.rmtree(root / "Tokyo" / "Images" / "Train")
    (image,) = (root / "Tokyo" / "Images" / "Test").iterdir()
    Image.open(image).save(image.with_suffix(".jpg"))
    image.rename(image.with_name("other.png"))
    _, _, listing = _listing("crosscity", tmp_path)
    assert set(listing.splits) == {"rio_train", "rio_test", "tokyo_test"}
    (pair,) = listing.splits["tokyo_test"]
    assert pair.image.suffix == ".jpg" and pair.label.name.endswith("_eval.png")
    assert [finding.id for finding in listing.findings] == ["other"]


def test_cityscapes_of_train_ids_only(formats, expected, tmp_path):
    """As the official tool writes them, in every class space."""
    root = tmp_path / "cityscapes"
    shutil.copytree(formats / "cityscapes", root)
    for path in root.rglob("*_gtFine_labelIds.png"):
        example = path.name.removesuffix("_gtFine_labelIds.png")
        made = Image.fromarray(expected["cityscapes", example, "train_id_19"])
        made.save(path.with_name(f"{example}_gtFine_labelTrainIds.png"))
        path.unlink()
    for width, space in SPACES.items():
        builder_class, config, listing = _listing("cityscapes", tmp_path, space)
        for pair in _labelled(listing).values():
            np.testing.assert_array_equal(
                builder_class.train_ids(pair, config),
                expected["cityscapes", pair.id, f"train_id_{width}"],
            )


@pytest.mark.parametrize("space", SPACES.values())
def test_synthia_lanes_as_road(formats, space):
    builder_class, config, listing = _listing("synthia", formats, space)
    _, road, _ = _listing("synthia", formats, f"{space}-lanes_as_road")
    for pair in _labelled(listing).values():
        lanes = label_channels(pair.label)[..., 0] == 22
        ids, with_lanes = (builder_class.train_ids(pair, c) for c in (config, road))
        assert lanes.any() and (ids[lanes] == 255).all()
        np.testing.assert_array_equal(with_lanes, np.where(lanes, 0, ids))


def test_published_counts_add_up():
    """Of the whole of a dataset, as its paper says."""

    def total(dataset, ending):
        counts = resolve("datasets", dataset).published
        return sum(n for split, n in counts.items() if split.endswith(ending))

    assert [total("acdc", s) for s in ("train", "val", "test")] == [1600, 406, 2000]
    assert total("crosscity", "train") == 4 * 3200 and total("crosscity", "test") == 400
    assert total("dark_zurich", "val") + total("dark_zurich", "test") == 201
    cityscapes = resolve("datasets", "cityscapes")
    for split, cities in cityscapes.groups.items():
        assert sum(cities.values()) == cityscapes.published[split]
    assert cityscapes.group_of("frankfurt_000000_000294") == "frankfurt"
