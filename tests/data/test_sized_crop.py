import dataclasses
import pickle

import cv2
import numpy as np
import pytest

from sfda_jax.data import image_ops
from sfda_jax.data.sized_crop import SizedCrop, SizedDecisions, colour_levels
from sfda_jax.errors import ConfigError


def _record(height=41, width=83, **extra):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    label = rng.integers(0, 19, (height, width), dtype=np.uint8)
    return {"image": image, "label": label, "id": "a", "index": 3, **extra}


def _plain(**drawn):
    nothing = {"flip": False, "colour": None, "height": 20, "top": 0.0, "left": 0.0}
    return SizedDecisions(**{**nothing, **drawn})


def test_crop_without_resize_is_a_part_of_the_image():
    record = _record()
    crop = SizedCrop(size=(20, 40), heights=(20, 20))
    decisions = _plain(top=0.5, left=0.999)
    image, labels = crop.apply(record["image"], record["label"], decisions)
    np.testing.assert_array_equal(image, record["image"][10:30, 42:82])
    np.testing.assert_array_equal(labels, record["label"][10:30, 42:82])


def test_mirrors_before_it_crops():
    record = _record()
    crop = SizedCrop(size=(20, 40), heights=(20, 20))
    image, labels = crop.apply(record["image"], record["label"], _plain(flip=True))
    np.testing.assert_array_equal(image, record["image"][:20, ::-1][:, :40])
    np.testing.assert_array_equal(labels, record["label"][:20, ::-1][:, :40])


def test_colours_of_the_image_only_before_it_is_resized():
    record = _record()
    crop = SizedCrop(size=(10, 20), heights=(20, 20))
    decisions = _plain(colour=(1.2, -0.1))
    image, labels = crop.apply(record["image"], record["label"], decisions)
    coloured = cv2.LUT(record["image"][:20, :40], colour_levels(1.2, -0.1))
    np.testing.assert_array_equal(image, cv2.resize(coloured, (20, 10)))
    np.testing.assert_array_equal(labels, record["label"][:20:2, :40:2])


def test_colour_levels_truncate_and_clip():
    levels = colour_levels(1.1, 0.1)
    assert levels[0] == 25  # 25.5
    assert levels[10] == 36  # 36.5
    assert levels[255] == 255
    assert colour_levels(0.8, -0.2)[63] == 0


def test_draws_cover_the_settings():
    crop = SizedCrop(heights=(5, 8))
    rng = np.random.default_rng(0)
    drawn = [crop.draw(rng) for _ in range(600)]
    assert {d.height for d in drawn} == {5, 6, 7, 8}
    assert 0.43 < np.mean([d.flip for d in drawn]) < 0.57
    colours = np.array([d.colour for d in drawn if d.colour is not None])
    assert 0.24 < len(colours) / 600 < 0.36
    for column, centre in zip(colours.T, (1.0, 0.0), strict=True):
        assert centre - 0.2 <= column.min() < centre - 0.15
        assert centre + 0.15 < column.max() <= centre + 0.2
    never = SizedCrop(heights=(5, 8), flip_probability=0.0, colour_probability=0.0)
    assert not any(d.flip or d.colour for d in map(never.draw, [rng] * 50))


def test_aspect_is_that_of_the_size_unless_given():
    record = _record(36, 48)
    image, _ = SizedCrop(size=(18, 24), heights=(36, 36)).apply(
        record["image"], None, _plain(height=36, top=0.7, left=0.7)
    )
    np.testing.assert_array_equal(image, cv2.resize(record["image"], (24, 18)))
    with pytest.raises(ConfigError, match=r"36x72 does not fit .* 36x48") as caught:
        SizedCrop(heights=(36, 36), aspect=2.0)(record, np.random.default_rng(0))
    assert "24 high" in caught.value.hint


@pytest.mark.parametrize("heights", [(0, 5), (7, 6), (-3, -2)])
def test_refuses_heights(heights):
    with pytest.raises(ConfigError, match="heights"):
        SizedCrop(heights=heights)


def test_pseudo_labels_are_enlarged_to_the_image():
    small = np.arange(6, dtype=np.uint8).reshape(2, 3)
    record = _record(40, 60, domain="target")
    crop = SizedCrop(
        size=(20, 30), heights=(40, 40), flip_probability=0.0, pseudo={"a": small}.get
    )
    labels = crop(record, np.random.default_rng(0))["labels"]
    np.testing.assert_array_equal(labels, np.kron(small, np.ones((10, 10), np.uint8)))


def test_target_without_pseudo_labels_gives_images_only():
    crop = SizedCrop(size=(10, 20), heights=(20, 20))
    record = _record()
    del record["label"]
    assert set(crop(record, np.random.default_rng(0))) == {"images", "index"}


def test_all_ignored_labels_stay_ignored():
    record = _record(label=np.full((41, 83), 255, np.uint8))
    crop = SizedCrop(size=(16, 32), heights=(9, 26))
    arrays = crop(record, np.random.default_rng(1))
    assert (arrays["labels"] == 255).all()


def test_gamma_comes_first():
    record = _record()
    settings = {"size": (10, 20), "heights": (20, 20)}
    bright = SizedCrop(**settings, gamma=0.5)(record, np.random.default_rng(2))
    toned = {**record, "image": image_ops.tone(record["image"], 0.5)}
    expected = SizedCrop(**settings)(toned, np.random.default_rng(2))
    np.testing.assert_array_equal(bright["images"], expected["images"])


def test_pickles_and_follows_its_generator():
    crop = SizedCrop(size=(16, 32), heights=(9, 26))
    copy = pickle.loads(pickle.dumps(crop))
    record = _record()
    first = crop(record, np.random.default_rng(4))
    second = copy(record, np.random.default_rng(4))
    assert {name: a.dtype.name for name, a in first.items()} == {
        "images": "uint8",
        "labels": "uint8",
        "index": "int32",
    }
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name])
    with pytest.raises(dataclasses.FrozenInstanceError):
        crop.gamma = 2.0
