import pickle

import cv2
import numpy as np
import pytest

from sfda_jax.data.scaled_crop import ScaledCrop, ScaledDecisions
from sfda_jax.errors import ConfigError, DataError


def _record(height=40, width=61, *, label=None, **extra):
    rng = np.random.default_rng(0)
    if label is None:
        label = rng.integers(0, 4, (height, width), np.uint8)
    height, width = label.shape
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return {"image": image, "label": label, "id": "a", "index": 7, **extra}


def _crop(**settings):
    defaults = {"size": (16, 24), "scale_range": (1.0, 1.0)}
    return ScaledCrop(**{**defaults, **settings})


def _drawn(crop, labels, count=60, *, target=True):
    rng = np.random.default_rng(0)
    return [crop.draw(rng, labels, target=target) for _ in range(count)]


def _plain(**drawn):
    nothing = {"factor": None, "top": 0, "left": 0, "flip": False}
    return ScaledDecisions(**{**nothing, **drawn})


def test_arrays():
    arrays = _crop()(_record(), np.random.default_rng(0))
    kinds = {name: (a.dtype.name, a.shape) for name, a in arrays.items()}
    assert kinds == {
        "images": ("uint8", (16, 24, 3)),
        "valid": ("bool", (16, 24)),
        "labels": ("uint8", (16, 24)),
        "is_target": ("bool", ()),
        "index": ("int32", ()),
    }


def test_crops_and_mirrors_alike():
    record = _record()
    crop = _crop()
    parts = crop.apply(record["image"], record["label"], _plain(top=3, left=5))
    np.testing.assert_array_equal(parts[0], record["image"][3:19, 5:29])
    np.testing.assert_array_equal(parts[2], record["label"][3:19, 5:29])
    assert parts[1].all()
    mirrored = crop.apply(
        record["image"], record["label"], _plain(top=3, left=5, flip=True)
    )
    for a, b in zip(parts, mirrored, strict=True):
        np.testing.assert_array_equal(a[:, ::-1], b)


@pytest.mark.parametrize("factor", [0.5, 0.7, 1.0, 1.3])
def test_rescales_by_the_factor(factor):
    record = _record()
    crop = _crop(size=(14, 20))
    image, valid, labels = crop.apply(
        record["image"], record["label"], _plain(factor=factor)
    )
    scaled = cv2.resize(record["image"], None, fx=factor, fy=factor)
    np.testing.assert_array_equal(image, scaled[:14, :20])
    assert valid.all()
    nearest = cv2.resize(
        record["label"], None, fx=factor, fy=factor, interpolation=cv2.INTER_NEAREST
    )
    np.testing.assert_array_equal(labels, nearest[:14, :20])


def test_pads_at_the_bottom_and_on_the_right():
    record = _record(11, 13)
    crop = _crop(mine_probability=0.0, flip=False)
    for _ in range(3):
        arrays = crop(record, np.random.default_rng(0))
        inside = np.zeros((16, 24), bool)
        inside[:11, :13] = True
        np.testing.assert_array_equal(arrays["valid"], inside)
        np.testing.assert_array_equal(arrays["labels"] == 255, ~inside)
        np.testing.assert_array_equal(arrays["images"][:11, :13], record["image"])


def test_draws_cover_the_settings():
    labels = np.zeros((40, 61), np.uint8)
    drawn = _drawn(_crop(scale_range=(0.5, 1.5)), labels, 400)
    factors = {round(d.factor, 6) for d in drawn}
    assert factors == {0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5}
    assert 0.4 < np.mean([d.flip for d in drawn]) < 0.6
    drawn = _drawn(_crop(flip=False), labels, 2000)
    assert not any(d.flip or d.factor for d in drawn)
    assert {d.top for d in drawn} == set(range(25))
    assert {d.left for d in drawn} == set(range(38))
    assert {d.factor for d in _drawn(_crop(scale_range=(0.9, 0.9)), labels)} == {0.9}


def test_mined_crops_stay_within_the_image():
    labels = np.zeros((40, 61), np.uint8)
    crop = _crop(priority=(3,), mine_probability=1.0)
    for seed, place in {
        (0, 0): (0, 0),
        (20, 30): (12, 18),
        (39, 60): (24, 37),
        (7, 49): (0, 37),
        (8, 50): (0, 37),
        (9, 48): (1, 36),
    }.items():
        labels[:] = 0
        labels[seed] = 3
        assert {(d.top, d.left) for d in _drawn(crop, labels, 5)} == {place}


def test_mines_in_images_smaller_than_the_crop():
    labels = np.zeros((10, 40), np.uint8)
    labels[9, 39] = 3
    crop = _crop(priority=(3,), mine_probability=1.0)
    assert {(d.top, d.left) for d in _drawn(crop, labels, 5)} == {(0, 16)}


def test_absent_classes_give_random_crops():
    labels = np.full((40, 61), 255, np.uint8)
    crop = _crop(priority=(3, 5), mine_probability=1.0)
    assert len({(d.top, d.left) for d in _drawn(crop, labels)}) > 40
    labels[20, 30] = 5
    assert {(d.top, d.left) for d in _drawn(crop, labels)} == {(12, 18)}


@pytest.mark.parametrize("mine_source", [True, False])
def test_mining_of_source_images(mine_source):
    labels = np.zeros((40, 61), np.uint8)
    labels[20, 30] = 3
    crop = _crop(priority=(3,), mine_probability=1.0, mine_source=mine_source)
    places = {(d.top, d.left) for d in _drawn(crop, labels, target=False)}
    assert (places == {(12, 18)}) == mine_source


def test_targets_read_their_pseudo_labels():
    pseudo = np.full((20, 30), 3, np.uint8)
    crop = _crop(pseudo={"a": pseudo}.__getitem__)
    target = crop(_record(domain="target"), np.random.default_rng(0))
    assert target["is_target"] and (target["labels"] == 3).all()
    source = crop(_record(domain="source"), np.random.default_rng(0))
    assert not source["is_target"] and (source["labels"] == 3).mean() < 0.5
    with pytest.raises(DataError, match="no pseudo-labels"):
        _crop()(_record(domain="target"), np.random.default_rng(0))


def test_all_ignored_labels():
    record = _record(label=np.full((40, 61), 255, np.uint8))
    arrays = _crop(scale_range=(0.5, 1.5))(record, np.random.default_rng(0))
    assert (arrays["labels"] == 255).all()


@pytest.mark.parametrize("scale_range", [(1.0, 1.0), (0.5, 1.5)])
@pytest.mark.parametrize("size", [(40, 61), (20, 30)])
def test_soft_labels_are_distributions_where_labels_count(scale_range, size):
    hard = np.zeros((40, 61), np.uint8)
    hard[:, 25:] = 2
    hard[::7] = 255
    rows = np.arange(size[1])[None, :, None] * 61 // size[1]
    soft = np.where(rows < 25, [0.75, 0, 0.25], [0.25, 0, 0.75]).repeat(size[0], 0)
    crop = _crop(
        scale_range=scale_range,
        pseudo={"a": hard}.__getitem__,
        soft={"a": soft.astype(np.float16)}.__getitem__,
        num_classes=3,
    )
    for seed in range(20):
        sample = crop(_record(40, 61, domain="target"), np.random.default_rng(seed))
        weights, labels = sample["soft_labels"], sample["labels"]
        assert weights.dtype == np.float32 and weights.shape == (16, 24, 3)
        assert not weights[labels == 255].any()
        np.testing.assert_allclose(weights[labels != 255].sum(-1), 1, rtol=1e-5)
        right = weights.argmax(-1)[labels != 255] == labels[labels != 255]
        assert right.mean() > 0.9  # they blend where the classes meet


@pytest.mark.parametrize("factor", [0.5, 0.6, 0.9, 1.0, 1.4, 1.5])
def test_soft_labels_are_rescaled_as_opencv_does(factor):
    soft = np.random.default_rng(0).random((37, 53, 5), np.float32)
    crop = _crop(size=(30, 40))
    decisions = _plain(factor=factor, top=2, left=9)
    found = crop.apply_soft(soft, (37, 53), decisions)
    planes = [cv2.resize(soft[..., c], None, fx=factor, fy=factor) for c in range(5)]
    whole = np.stack(planes, -1)[2:32, 9:49]
    expected = np.zeros((30, 40, 5), np.float32)
    height, width = whole.shape[:2]
    expected[:height, :width] = whole / whole.sum(-1, keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)


def test_soft_labels_without_any_weight_stay_zero():
    crop = _crop(
        scale_range=(0.5, 1.5),
        pseudo={"a": np.zeros((40, 61), np.uint8)}.__getitem__,
        soft={"a": np.zeros((40, 61, 3), np.float16)}.__getitem__,
        num_classes=3,
    )
    sample = crop(_record(40, 61, domain="target"), np.random.default_rng(0))
    assert not sample["soft_labels"].any()


def test_soft_labels_of_the_source_are_one_hot():
    crop = _crop(soft=dict.get, num_classes=4)
    sample = crop(_record(10, 61, domain="source"), np.random.default_rng(0))
    labels, weights = sample["labels"], sample["soft_labels"]
    np.testing.assert_array_equal(weights.sum(-1), labels != 255)
    np.testing.assert_array_equal(weights.argmax(-1)[:10], labels[:10])


def test_refuses_settings():
    with pytest.raises(ConfigError, match="even sides"):
        _crop(size=(15, 24))
    with pytest.raises(ConfigError, match="scale_range"):
        _crop(scale_range=(1.5, 0.5))
    with pytest.raises(ConfigError, match="num_classes"):
        _crop(soft=dict.get)


def test_pickles_and_follows_its_generator():
    crop = _crop(scale_range=(0.5, 1.5))
    copy = pickle.loads(pickle.dumps(crop))
    first = crop(_record(), np.random.default_rng(4))
    second = copy(_record(), np.random.default_rng(4))
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name])
