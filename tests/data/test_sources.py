import pickle

import numpy as np
import pytest

from sfda_jax.data.preparation import default_data_dir, prepare
from sfda_jax.data.sources import Source, dataset_classes, fingerprint, open_split
from sfda_jax.errors import DataError

VARIANT = "24x48-4"


@pytest.fixture(scope="module")
def builder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    return prepare("scenes", data_dir=folder, variant=VARIANT)


def test_records(builder):
    source = open_split(builder, "game_train", labelled=True)
    assert len(source) == 4
    record = source[2]
    assert set(record) == {"image", "label", "id"}
    assert record["image"].shape == (24, 48, 3) and record["image"].dtype == np.uint8
    assert record["label"].shape == (24, 48) and record["label"].dtype == np.uint8
    assert record["id"] == "game_0000002"
    with pytest.raises(IndexError):
        source[4]


def test_unlabelled_source_never_decodes_a_label(builder, monkeypatch):
    from tensorflow_datasets.core.features.image_feature import Image

    decoded = []
    original = Image.decode_example_np

    def spy(self, example):
        decoded.append(self.shape[-1])
        return original(self, example)

    monkeypatch.setattr(Image, "decode_example_np", spy)
    source = open_split(builder, "real_train", labelled=False)
    assert all(set(record) == {"image", "id"} for record in source)
    assert decoded == [3] * 4


@pytest.mark.parametrize("labelled", [False, True])
def test_sources_pickle(builder, labelled):
    source = open_split(builder, "real_test", labelled=labelled)
    first = source[0]
    again = pickle.loads(pickle.dumps(source))
    assert isinstance(again, Source) and again.labelled == labelled
    for key, value in again[0].items():
        np.testing.assert_array_equal(value, first[key])


def test_unknown_split(builder):
    with pytest.raises(DataError, match=r"Did you mean 'real_train'.*real_test"):
        open_split(builder, "real_trian", labelled=False)


def test_open_by_name(builder, tmp_path):
    root = builder._data_dir_root
    source = open_split(
        "scenes", "game_val", labelled=True, data_dir=root, variant=VARIANT
    )
    assert len(source) == 1


def test_fingerprint_follows_the_content(builder, tmp_path):
    assert fingerprint(builder) == fingerprint(
        prepare("scenes", data_dir=builder._data_dir_root, variant=VARIANT)
    )
    other = prepare("scenes", data_dir=tmp_path, variant="24x48-5")
    assert fingerprint(other) != fingerprint(builder)
    assert fingerprint(builder).startswith("procedural_scenes/24x48-4/")


def test_classes_of_a_prepared_set(builder):
    classes = dataset_classes(builder)
    assert classes.name == "cityscapes19" and classes.num_classes == 19
    assert classes.palette.dtype == np.uint8 and classes.palette.shape == (19, 3)
    assert classes.subsets["mIoU13"][3:] == (6, 7, 8, 10, 11, 12, 13, 15, 17, 18)


def test_default_data_dir(monkeypatch, tmp_path):
    monkeypatch.setenv("SFDA_JAX_DATA", str(tmp_path))
    assert default_data_dir() == tmp_path
    monkeypatch.delenv("SFDA_JAX_DATA")
    assert default_data_dir().name == "sfda_jax"
