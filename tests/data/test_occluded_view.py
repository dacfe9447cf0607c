import pickle

import numpy as np
import pytest

from sfda_jax.data import image_ops
from sfda_jax.data.crop_geometry import CropGeometry
from sfda_jax.data.occluded_view import OccludedDecisions, OccludedView
from sfda_jax.data.rand_augment import (
    OPERATIONS,
    STRENGTHS,
    draw_choices,
    rand_augment,
)
from sfda_jax.data.retried_crop import RetriedCrop
from tests.data.test_retried_crop import picture, read_three

CROP = RetriedCrop(
    full_size=(40, 72), base_width=72, crop_size=(20, 30), pseudo=read_three
)
NOTHING = OccludedDecisions(choices=(), centre=(10.0, 15.0))


def as_stored():
    """The crop's geometry that shows rows 4 to 24 and columns 6 to 36 unchanged."""
    return CropGeometry(
        rescale_size=(40, 72), crop_size=(20, 30), corner=(4, 6), flip=False
    )


def test_arrays_are_those_of_the_crop_and_two_more():
    view, record = OccludedView(crop=CROP), picture(domain="target")
    arrays = view(record, np.random.default_rng(0))
    first = CROP(record, np.random.default_rng(0))
    assert set(arrays) == {*first, "student_images", "occluded"}
    for name, array in first.items():
        np.testing.assert_array_equal(arrays[name], array)
    seen, occluded = arrays["student_images"], arrays["occluded"]
    assert (seen.shape, seen.dtype) == ((20, 30, 3), np.float32)
    assert (occluded.shape, occluded.dtype) == ((20, 30), bool)
    assert occluded.any() and not occluded.all()


def test_the_box_is_black_and_the_rest_the_image():
    record = picture()
    seen, occluded = OccludedView(crop=CROP).apply(
        record["image"], as_stored(), NOTHING
    )
    expected = image_ops.normalise(record["image"][4:24, 6:36])
    black = image_ops.normalise(np.zeros((1, 1, 3), np.uint8))[0, 0]
    expected[7:13, 12:18] = black  # a side of 0.2 * 30 around the middle
    np.testing.assert_array_equal(np.argwhere(occluded).min(0), (7, 12))
    np.testing.assert_array_equal(np.argwhere(occluded).max(0), (12, 17))
    np.testing.assert_allclose(seen, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("centre", "rows", "columns"),
    [
        ((0.0, 0.0), (0, 5), (0, 5)),  # begins at 0 and keeps its side, as published
        ((1.9, 29.9), (0, 5), (26, 29)),
        ((19.9, 15.9), (16, 19), (12, 17)),
    ],
)
def test_boxes_at_the_border(centre, rows, columns):
    decisions = OccludedDecisions(choices=(), centre=centre)
    _, occluded = OccludedView(crop=CROP).apply(
        picture()["image"], as_stored(), decisions
    )
    places = np.argwhere(occluded)
    assert (places[0][0], places[-1][0]) == rows
    assert (places[0][1], places[-1][1]) == columns
    assert len(places) == (rows[1] - rows[0] + 1) * (columns[1] - columns[0] + 1)


def test_the_second_view_has_no_jitter():
    record = picture(domain="target")
    crops = [
        RetriedCrop(
            full_size=(40, 72), crop_size=(20, 30), pseudo=read_three, jitter=jitter
        )
        for jitter in ((0.5, 0.5, 0.5, 0.2), (0.1, 0.3, 0.2, 0.1))
    ]
    plain, other = (
        OccludedView(crop=crop, operations=0)(record, np.random.default_rng(0))
        for crop in crops
    )
    assert (plain["images"] != other["images"]).any()
    np.testing.assert_array_equal(plain["student_images"], other["student_images"])


def test_gamma_reaches_both_views():
    record = picture(domain="target")
    toned = {**record, "image": image_ops.tone(record["image"], 0.5)}
    settings = {"full_size": (40, 72), "crop_size": (20, 30), "pseudo": read_three}
    found = OccludedView(crop=RetriedCrop(**settings, gamma=0.5))(
        record, np.random.default_rng(3)
    )
    expected = OccludedView(crop=RetriedCrop(**settings))(
        toned, np.random.default_rng(3)
    )
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


def test_draws_cover_the_operations():
    rng = np.random.default_rng(0)
    drawn = [draw_choices(rng, 2) for _ in range(500)]
    lengths = np.bincount([len(choices) for choices in drawn], minlength=3) / 500
    np.testing.assert_allclose(lengths, [0.25, 0.5, 0.25], atol=0.07)
    operations, strengths = zip(*(c for choices in drawn for c in choices), strict=True)
    assert set(operations) == set(range(len(OPERATIONS)))
    assert set(strengths) == set(STRENGTHS) == {*range(1, 10)}
    view = OccludedView(crop=CROP)
    centres = np.array([view.draw(rng).centre for _ in range(300)])
    assert centres.min() >= 0
    np.testing.assert_allclose(centres.max(0), (20, 30), rtol=0.02)


@pytest.mark.parametrize("index", range(len(OPERATIONS)))
def test_operations_leave_their_input_alone(index):
    image = picture()["image"] // 2 + 30
    before = image.copy()
    changed = rand_augment(image, [(index, 5)])
    np.testing.assert_array_equal(image, before)
    assert (changed.shape, changed.dtype) == (image.shape, np.uint8)
    assert (changed != image).any() == (index != 5)


def test_operations_follow_one_another():
    image = picture()["image"]
    chained = rand_augment(image, [(1, 3), (8, 7)])
    np.testing.assert_array_equal(
        chained, rand_augment(rand_augment(image, [(1, 3)]), [(8, 7)])
    )
    assert (chained != rand_augment(image, [(8, 7), (1, 3)])).any()
    np.testing.assert_array_equal(rand_augment(image, []), image)


def test_pickles_and_follows_its_generator():
    view, record = OccludedView(crop=CROP), picture(domain="target")
    copy = pickle.loads(pickle.dumps(view))
    first = view(record, np.random.default_rng(4))
    second = copy(record, np.random.default_rng(4))
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name])
