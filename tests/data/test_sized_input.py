import doctest
import pickle

import cv2
import numpy as np
import pytest
from PIL import Image

from sfda_jax.data import sized_input
from sfda_jax.data.image_ops import tone
from sfda_jax.data.sized_input import SizedInput, SizedRecord, input_size
from sfda_jax.errors import ConfigError

IMAGE = np.random.default_rng(0).integers(0, 256, (31, 50, 3), dtype=np.uint8)


def sized(**settings):
    transform = pickle.loads(pickle.dumps(SizedInput(**settings)))
    arrays = transform({"image": IMAGE, "id": "a"}, np.random.default_rng(0))
    assert set(arrays) == {"images"} and arrays["images"].dtype == np.uint8
    return arrays["images"]


def test_examples():
    assert doctest.testmod(sized_input).failed == 0


@pytest.mark.parametrize(
    ("stored", "size", "scale", "expected"),
    [
        ((31, 50), (), 1.0, (31, 50)),
        ((31, 50), (7, 9), 1.0, (7, 9)),
        ((31, 50), (41,), 1.0, (25, 41)),
        ((50, 31), (41,), 1.0, (41, 25)),
        ((10, 20), (25,), 1.0, (13, 25)),  # 12.5 rounds up
        ((1052, 1914), (1914,), 1.0, (1052, 1914)),
        ((24, 48), (), 0.9, (22, 43)),
    ],
)
def test_sizes(stored, size, scale, expected):
    assert input_size(stored, size, scale) == expected


@pytest.mark.parametrize(
    ("resample", "size", "filter_"),
    [
        ("bilinear", (20, 60), Image.Resampling.BILINEAR),
        ("bicubic", (20, 60), Image.Resampling.BICUBIC),
        ("lanczos", (20, 60), Image.Resampling.LANCZOS),
        ("rule", (20, 30), Image.Resampling.LANCZOS),
        ("rule", (40, 60), Image.Resampling.BICUBIC),
        ("rule", (40, 30), Image.Resampling.BILINEAR),
        ("rule", (31, 30), Image.Resampling.BILINEAR),
    ],
)
def test_filters_are_pillows(resample, size, filter_):
    expected = Image.fromarray(IMAGE).resize(size[::-1], filter_)
    np.testing.assert_array_equal(sized(size=size, resample=resample), expected)


def test_opencv_by_size_and_by_scale_lie_apart():
    by_size = sized(size=(28, 45), resample="opencv")
    by_scale = sized(scale=0.9, resample="opencv")
    np.testing.assert_array_equal(by_size, cv2.resize(IMAGE, (45, 28)))
    np.testing.assert_array_equal(by_scale, cv2.resize(IMAGE, None, fx=0.9, fy=0.9))
    assert by_size.shape == by_scale.shape and (by_size != by_scale).any()


@pytest.mark.parametrize("resample", ["bilinear", "rule", "opencv"])
def test_its_own_size_changes_nothing(resample):
    np.testing.assert_array_equal(sized(resample=resample), IMAGE)
    np.testing.assert_array_equal(sized(size=(50,), resample=resample), IMAGE)


def test_the_tone_curve_comes_first():
    found = sized(size=(20, 30), gamma=0.5)
    expected = Image.fromarray(tone(IMAGE, 0.5)).resize(
        (30, 20), Image.Resampling.BILINEAR
    )
    np.testing.assert_array_equal(found, expected)


def test_a_record_brings_index_and_labels():
    label = np.arange(31 * 50).reshape(31, 50).astype(np.uint8)
    record = {"image": IMAGE, "label": label, "index": 7}
    transform = SizedRecord(size=(62, 100))
    found = transform(record, np.random.default_rng(0))
    assert set(found) == {"images", "labels", "index"}
    np.testing.assert_array_equal(found["images"], sized(size=(62, 100)))
    np.testing.assert_array_equal(found["labels"], np.kron(label, np.ones((2, 2))))
    assert found["index"] == 7 and found["index"].dtype == np.int32
    for target in ({**record, "domain": "target"}, {"image": IMAGE, "index": 7}):
        assert set(transform(target, np.random.default_rng(0))) == {"images", "index"}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"resample": "lanzcos"}, "lanczos"),
        ({"size": (1, 2, 3)}, "means nothing"),
        ({"size": (8, 8), "scale": 0.5}, "means nothing"),
    ],
)
def test_wrong_settings_are_named(settings, expected):
    with pytest.raises(ConfigError, match=expected):
        SizedInput(**settings)
