import pickle

import numpy as np
import pytest

from sfda_jax.data import image_ops
from sfda_jax.data.crop_geometry import CropGeometry
from sfda_jax.data.retried_crop import TRIES, RetriedCrop, RetriedDecisions
from sfda_jax.errors import ConfigError, DataError

CROP = {"full_size": (40, 72), "base_width": 80, "crop_size": (16, 24)}
STILL = {"jitter": (0.0,) * 4, "flip_probability": 0.0}


def picture(height=40, width=72, **extra):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    label = rng.integers(0, 19, (height, width), dtype=np.uint8)
    return {"image": image, "label": label, "id": "a", "index": 3, **extra}


def read_three(example_id):
    assert example_id == "a"
    return np.full((10, 18), 3, np.uint8)


class Counted:
    """A generator that counts what is asked of it."""

    def __init__(self, seed=0):
        self._rng = np.random.default_rng(seed)
        self.uniforms = self.whole = 0

    def random(self):
        self.uniforms += 1
        return self._rng.random()

    def integers(self, low, high):
        self.whole += 1
        return self._rng.integers(low, high)


def test_arrays():
    arrays = RetriedCrop(**CROP)(picture(50, 90), np.random.default_rng(0))
    assert {k: (a.shape, a.dtype.name) for k, a in arrays.items()} == {
        "images": ((16, 24, 3), "uint8"),
        "labels": ((16, 24), "uint8"),
        "index": ((), "int32"),
    }
    assert arrays["index"] == 3


def test_image_and_labels_are_cut_alike():
    record = picture()
    record["image"] = np.repeat(record["label"][..., None], 3, axis=2)
    crop = RetriedCrop(**CROP, **STILL, scale_range=(0.9, 0.9))
    arrays = crop(record, np.random.default_rng(1))  # 72 of 80: not resized
    np.testing.assert_array_equal(arrays["images"][..., 0], arrays["labels"])


def test_sizes_follow_the_width():
    crop = RetriedCrop()
    assert crop.rescale_size((1052, 1914), 0.5) == (604, 1100)
    assert crop.rescale_size((1052, 1914), 1.5) == (1813, 3300)
    own = RetriedCrop(full_size=(), base_width=0)
    assert own.rescale_size((1024, 2048), 0.5) == (512, 1024)


def test_jitter_comes_before_the_crop_and_contrast_last():
    crop, record = RetriedCrop(**CROP), picture()
    geometry = CropGeometry(
        rescale_size=(40, 72), crop_size=(16, 24), corner=(3, 5), flip=True
    )
    factors = (0.6, 1.4, 0.7, 0.1)
    found, _ = crop.apply(
        record["image"],
        record["label"],
        RetriedDecisions(geometry=geometry, jitter=factors),
    )
    expected = record["image"]
    for operation in (3, 0, 2, 1):
        expected = image_ops.JITTER[operation](expected, factors[operation])
    np.testing.assert_array_equal(found, expected[3:19, 5:29][:, ::-1])


def test_operations_of_no_strength_are_left_out():
    crop = RetriedCrop(**CROP, jitter=(0.0, 0.5, 0.0, 0.2))
    draws = Counted()
    drawn = crop.draw(draws, picture()["label"])
    assert [f is None for f in drawn.jitter] == [True, False, True, False]
    assert draws.uniforms == 4  # scale, hue, contrast, mirror


def test_draws_cover_the_settings():
    crop, labels = RetriedCrop(**CROP), picture()["label"]
    rng = np.random.default_rng(0)
    drawn = [crop.draw(rng, labels) for _ in range(400)]
    widths = [d.geometry.rescale_size[1] for d in drawn]
    assert 40 <= min(widths) < 42 and 118 < max(widths) < 120
    assert 0.42 < np.mean([d.geometry.flip for d in drawn]) < 0.58
    factors = np.array([d.jitter for d in drawn])
    for column, strength, centre in zip(
        factors.T, crop.jitter, (1, 1, 1, 0), strict=True
    ):
        assert centre - strength <= column.min() < centre - 0.9 * strength
        assert centre + 0.9 * strength < column.max() <= centre + strength
    corners = [d.geometry.corner for d in drawn if d.geometry.rescale_size == (40, 72)]
    assert all(0 <= y <= 24 and 0 <= x <= 48 for y, x in corners)


def test_a_crop_of_one_label_is_drawn_again():
    labels = np.full((40, 72), 255, np.uint8)
    labels[10, 30] = 2
    crop = RetriedCrop(**CROP)
    for seed in range(20):
        draws = Counted(seed)
        top, left = crop.draw_corner(draws, labels)
        inside = top <= 10 < top + 16 and left <= 30 < left + 24
        assert inside or draws.whole == 2 * TRIES
    draws = Counted()
    assert crop.draw_corner(draws, np.full((40, 72), 7, np.uint8)) is not None
    assert draws.whole == 2 * TRIES


def test_largest_share_of_a_label():
    labels = np.zeros((16, 25), np.uint8)
    labels[:, 12:] = 1  # a share of 12 / 24 at column 0, of 13 / 24 at column 1
    crop = RetriedCrop(**CROP, max_share=0.52)
    corners = {crop.draw_corner(np.random.default_rng(s), labels) for s in range(8)}
    assert corners == {(0, 0)}
    draws = Counted()
    RetriedCrop(**CROP, max_share=0.5).draw_corner(draws, labels)
    assert draws.whole == 2 * TRIES


@pytest.mark.parametrize("size", [(16, 24), (15, 40), (40, 23)])
def test_images_no_larger_than_the_crop_are_not_cut(size):
    draws = Counted()
    crop = RetriedCrop(**{**CROP, "full_size": ()}, **STILL, scale_range=(1.0, 1.0))
    assert crop.draw_corner(draws, np.zeros(size, np.uint8)) is None
    assert not draws.whole
    arrays = crop(picture(*size), np.random.default_rng(0))
    assert arrays["images"].shape == (16, 24, 3)


def test_pseudo_labels_are_resized_once_to_the_full_size():
    crop = RetriedCrop(**CROP, pseudo=read_three)
    record = picture(domain="target")
    arrays = crop(record, np.random.default_rng(0))
    assert (arrays["labels"] == 3).all()
    del record["label"]
    with pytest.raises(DataError, match="no label"):
        RetriedCrop(**CROP)(record, np.random.default_rng(0))


def test_all_ignored_labels_stay_ignored():
    record = picture(label=np.full((40, 72), 255, np.uint8))
    arrays = RetriedCrop(**CROP)(record, np.random.default_rng(1))
    assert (arrays["labels"] == 255).all()


@pytest.mark.parametrize("unit", [np.uint8, np.float16])
def test_weights_lie_where_the_labels_do(unit):
    record = picture()
    levels = record["label"].astype(unit)
    crop = RetriedCrop(
        **{**CROP, "base_width": 0},
        **STILL,
        scale_range=(1.0, 1.0),
        weight_map={"a": levels}.get,
    )
    arrays = crop(record, np.random.default_rng(2))
    expected = arrays["labels"].astype(np.float32)
    expected /= np.float32(255 if unit is np.uint8 else 1)
    assert arrays["weights"].dtype == np.float32
    np.testing.assert_array_equal(arrays["weights"], expected)


def test_gamma_comes_first():
    record = picture()
    bright = RetriedCrop(**CROP, gamma=0.5)(record, np.random.default_rng(2))
    toned = {**record, "image": image_ops.tone(record["image"], 0.5)}
    expected = RetriedCrop(**CROP)(toned, np.random.default_rng(2))
    np.testing.assert_array_equal(bright["images"], expected["images"])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({"scale_range": (1.5, 0.5)}, "scale_range"), ({"full_size": (9,)}, "full_size")],
)
def test_refuses_settings(settings, expected):
    with pytest.raises(ConfigError, match=expected):
        RetriedCrop(**settings)


def test_pickles_and_follows_its_generator():
    crop = RetriedCrop(**CROP, pseudo=read_three)
    copy, record = pickle.loads(pickle.dumps(crop)), picture(domain="target")
    first = crop(record, np.random.default_rng(4))
    second = copy(record, np.random.default_rng(4))
    other = copy(record, np.random.default_rng(5))
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name])
    assert (other["images"] != first["images"]).any()
