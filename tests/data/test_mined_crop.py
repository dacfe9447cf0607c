import pickle

import numpy as np
import pytest

from sfda_jax.data import image_ops
from sfda_jax.data.mined_crop import MinedCrop, MinedDecisions
from sfda_jax.data.mining import mined_pixel
from sfda_jax.errors import ConfigError, DataError

FILL = (123, 116, 103)


def _image(height, width, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def _record(height=60, width=90, *, label=None, **extra):
    if label is None:
        label = np.zeros((height, width), np.uint8)
    height, width = label.shape
    image = _image(height, width)
    return {"image": image, "label": label, "id": "a", "index": 7, **extra}


def _crop(**settings):
    """At a zoom of 1 an image pixel is a pixel of the sample."""
    defaults = {"crop_size": 24, "scale_range": (1.0, 1.0), "long_sides": (0, 0)}
    return MinedCrop(**{**defaults, **settings})


def _samples(crop, record, count=40):
    return [crop(record, np.random.default_rng(seed)) for seed in range(count)]


def _drawn(crop, labels, count=60, *, target=True):
    rng = np.random.default_rng(0)
    return [crop.draw(rng, labels, target=target) for _ in range(count)]


def test_arrays():
    kinds = {
        name: (a.dtype.name, a.shape)
        for name, a in _crop(crop_size=20)(_record(), np.random.default_rng(0)).items()
    }
    assert kinds == {
        "images": ("uint8", (24, 24, 3)),
        "labels": ("uint8", (3, 3)),
        "is_target": ("bool", ()),
        "index": ("int32", ()),
    }


def test_labels_lie_at_the_centres_of_cells():
    record = _record(label=np.arange(60 * 90, dtype=np.uint32).reshape(60, 90) % 251)
    record["label"] = record["label"].astype(np.uint8)
    decisions = MinedDecisions(side=24, top=5, left=8, flip=False)
    _, cells = _crop().apply(record["image"], record["label"], decisions)
    whole = record["label"][5:29, 8:32]
    np.testing.assert_array_equal(cells, whole[4::8, 4::8])
    image, labels = _crop(grid=False).apply(record["image"], record["label"], decisions)
    np.testing.assert_array_equal(labels, whole)
    np.testing.assert_array_equal(image, record["image"][5:29, 8:32])


def test_mirrors_image_and_labels():
    record = _record(label=np.random.default_rng(1).integers(0, 9, (60, 90), np.uint8))
    crop = _crop()
    same, mirrored = (
        crop.apply(
            record["image"],
            record["label"],
            MinedDecisions(side=30, top=5, left=8, flip=flip),
        )
        for flip in (False, True)
    )
    for a, b in zip(same, mirrored, strict=True):
        np.testing.assert_array_equal(a[:, ::-1], b)


def test_beyond_the_image_is_the_mean_colour_and_ignored():
    record = _record(9, 7)
    decisions = MinedDecisions(side=24, top=-3, left=-5, flip=False)
    image, labels = _crop(grid=False).apply(record["image"], record["label"], decisions)
    inside = np.zeros((24, 24), bool)
    inside[3:12, 5:12] = True
    np.testing.assert_array_equal(image[inside].reshape(9, 7, 3), record["image"])
    assert (image[~inside] == FILL).all()
    np.testing.assert_array_equal(labels == 255, ~inside)


def test_images_are_resized_by_the_rule():
    record = _record()
    decisions = MinedDecisions(side=40, top=0, left=0, flip=False)
    image, _ = _crop().apply(record["image"], record["label"], decisions)
    expected = image_ops.resize(record["image"][:40, :40], (24, 24), "lanczos")
    np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize("size", [(9, 7), (60, 90), (61, 23), (24, 24), (8, 8)])
def test_random_crops_see_some_of_any_image(size):
    crop = _crop(scale_range=(0.5, 2.0), long_sides=(50, 50), mine_probability=0.0)
    for sample in _samples(crop, _record(*size), 30):
        assert sample["images"].shape == (24, 24, 3)
    for decisions in _drawn(crop, np.zeros(size, np.uint8), 60):
        assert 12 <= decisions.side <= 48
        for first, length in zip((decisions.top, decisions.left), size, strict=True):
            assert -8 <= first < length
            assert first + decisions.side > 0


def test_zooms_refer_to_the_long_side_of_the_domain():
    labels = np.zeros((40, 80), np.uint8)
    sides = {
        target: {d.side for d in _drawn(crop, labels, 20, target=target)}
        for crop in [_crop(long_sides=(100, 200), origin_sizes=(100, 100))]
        for target in (False, True)
    }
    assert sides == {False: {24}, True: {48}}
    assert {d.side for d in _drawn(_crop(long_sides=(0, 0)), labels, 9)} == {24}


def test_mines_around_each_pixel_of_a_rare_class():
    labels = np.zeros((60, 90), np.uint8)
    labels[30, 40], labels[25, 50] = 5, 5
    crop = _crop(priority=(5,), mine_probability=1.0)
    seen = {(d.top + 12, d.left + 12) for d in _drawn(crop, labels)}
    assert seen == {(30, 40), (25, 50)}


def test_priority_comes_before_the_others():
    labels = np.zeros((60, 90), np.uint8)
    labels[30, 40], labels[25, 50], labels[28, 60] = 5, 6, 7
    settings = {"mine_probability": 1.0, "others": (6, 7, 9)}
    first = {d.left + 12 for d in _drawn(_crop(priority=(5,), **settings), labels)}
    assert first == {40}
    absent = {d.left + 12 for d in _drawn(_crop(priority=(8,), **settings), labels)}
    assert absent == {50, 60}


def test_a_class_at_the_border_alone_cannot_be_mined():
    labels = np.zeros((60, 90), np.uint8)
    labels[:, :12] = 5
    labels[:12] = 5
    labels[-13:] = 5
    crop = _crop(priority=(5,), mine_probability=1.0)
    assert len({(d.top, d.left) for d in _drawn(crop, labels)}) > 40
    labels[12, 12] = 5
    assert {(d.top, d.left) for d in _drawn(crop, labels)} == {(0, 0)}


def test_an_image_smaller_than_the_crop_cannot_be_mined():
    labels = np.full((20, 90), 5, np.uint8)
    crop = _crop(priority=(5,), mine_probability=1.0)
    assert all(-4 <= d.top < 4 for d in _drawn(crop, labels))


def test_mining_is_as_frequent_as_asked():
    labels = np.zeros((60, 90), np.uint8)
    labels[30, 40] = 5
    crop = _crop(priority=(5,), mine_probability=0.7)
    mined = [(d.top, d.left) == (18, 28) for d in _drawn(crop, labels, 400)]
    assert 0.62 < np.mean(mined) < 0.78


@pytest.mark.parametrize("mine_source", [True, False])
def test_mining_of_source_images(mine_source):
    labels = np.zeros((60, 90), np.uint8)
    labels[30, 40] = 5
    crop = _crop(priority=(5,), mine_probability=1.0, mine_source=mine_source)
    places = {(d.top, d.left) for d in _drawn(crop, labels, target=False)}
    assert (places == {(18, 28)}) == mine_source


def test_all_ignored_labels():
    record = _record(label=np.full((60, 90), 255, np.uint8))
    for sample in _samples(_crop(priority=(5,), mine_probability=1.0), record, 5):
        assert (sample["labels"] == 255).all()


def test_targets_read_their_pseudo_labels():
    pseudo = np.full((30, 45), 3, np.uint8)
    crop = _crop(pseudo={"a": pseudo}.__getitem__, mine_probability=0.0)
    source = crop(_record(domain="source"), np.random.default_rng(0))
    target = crop(_record(domain="target"), np.random.default_rng(0))
    assert not source["is_target"] and set(np.unique(source["labels"])) <= {0, 255}
    assert target["is_target"] and set(np.unique(target["labels"])) <= {3, 255}
    with pytest.raises(DataError, match="no pseudo-labels"):
        _crop()(_record(domain="target"), np.random.default_rng(0))


def test_soft_labels_follow_the_hard_ones():
    hard = np.random.default_rng(3).integers(0, 4, (61, 90), np.uint8)
    soft = np.eye(4, dtype=np.float16)[hard]
    hard[::5] = 255
    crop = _crop(
        scale_range=(0.6, 1.7),
        pseudo={"a": hard}.__getitem__,
        soft={"a": soft}.__getitem__,
        num_classes=4,
    )
    for domain in ("source", "target"):
        for sample in _samples(crop, _record(label=hard, domain=domain)):
            weights, labels = sample["soft_labels"], sample["labels"]
            assert weights.dtype == np.float32
            assert not weights[labels == 255].any()
            kept = labels != 255
            np.testing.assert_array_equal(weights[kept].argmax(-1), labels[kept])
            assert (weights[kept].sum(-1) == 1).all()


def test_soft_labels_of_other_classes_are_refused():
    crop = _crop(
        pseudo={"a": np.zeros((60, 90), np.uint8)}.__getitem__,
        soft={"a": np.zeros((60, 90, 3), np.float16)}.__getitem__,
        num_classes=4,
    )
    with pytest.raises(DataError, match=r"\(60, 90, 3\), expected \[H, W, 4\]"):
        crop(_record(domain="target"), np.random.default_rng(0))


def test_refuses_settings():
    with pytest.raises(ConfigError, match="scale_range"):
        _crop(scale_range=(1.3, 0.7))
    with pytest.raises(ConfigError, match="origin_sizes"):
        _crop(origin_sizes=(2048,))
    with pytest.raises(ConfigError, match="num_classes"):
        _crop(soft=dict.get)


def test_pickles_and_follows_its_generator():
    crop = _crop(scale_range=(0.7, 1.3))
    copy = pickle.loads(pickle.dumps(crop))
    first = crop(_record(), np.random.default_rng(4))
    second = copy(_record(), np.random.default_rng(4))
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name])


def test_mined_pixels_are_row_major_within_the_window():
    class Third:
        def random(self):
            raise AssertionError

        def integers(self, low, high):
            return min(2, high - 1)

    labels = np.zeros((4, 5), np.uint8)
    labels[0, 0], labels[1, 4], labels[2, 1], labels[2, 3], labels[3, 2] = [6] * 5
    window = (slice(1, None), slice(0, 9))
    assert mined_pixel(labels, Third(), priority=[6], window=window) == (2, 3)
    assert mined_pixel(labels, Third(), priority=[6]) == (2, 1)
    assert mined_pixel(labels, Third(), priority=[3, 4], others=[5]) is None
