import math

import jax.numpy as jnp
import numpy as np
import pytest

from sfda_jax.evaluation import confusion as lib
from sfda_jax.tasks import ClassSpace, class_space

THREE = ClassSpace(
    name="three",
    names=("a", "b", "c"),
    palette=np.zeros((3, 3), np.uint8),
    subsets={"mIoU3": (0, 1, 2), "mIoU2": (0, 1)},
)


def count(labels, predictions, classes=3):
    return np.asarray(
        lib.confusion_matrix(jnp.asarray(labels), jnp.asarray(predictions), classes)
    )


def test_rows_are_ground_truth_and_ignored_pixels_vanish():
    labels = np.array([[0, 0, 1], [255, 255, 2]], np.uint8)
    predictions = np.array([[0, 1, 1], [0, 2, 1]], np.uint8)
    matrix = count(labels, predictions)
    assert matrix.dtype == np.int32
    np.testing.assert_array_equal(matrix, [[1, 1, 0], [0, 1, 0], [0, 1, 0]])


def test_matches_brute_force():
    rng = np.random.default_rng(0)
    labels = rng.choice([*range(7), 255], (3, 11, 13)).astype(np.uint8)
    predictions = rng.integers(0, 7, labels.shape).astype(np.int32)
    expected = np.zeros((7, 7), int)
    for truth, guess in zip(labels.ravel(), predictions.ravel(), strict=True):
        if truth != 255:
            expected[truth, guess] += 1
    np.testing.assert_array_equal(count(labels, predictions, 7), expected)


def test_absent_class_is_nan_and_predicted_only_class_is_zero():
    scores = lib.scores(np.array([[8, 0, 2], [0, 0, 0], [0, 0, 0]], np.int64), THREE)
    assert scores.iou[0] == pytest.approx(0.8)
    assert math.isnan(scores.iou[1]) and scores.iou[2] == 0
    assert scores.subsets["mIoU3"] == pytest.approx(0.4)
    assert scores.subsets["mIoU2"] == pytest.approx(0.8)
    assert scores.accuracy == pytest.approx(0.8)
    assert scores.mean_accuracy == scores.weighted_iou == pytest.approx(0.8)
    record = scores.as_record(THREE)
    assert record["iou"] == {"a": pytest.approx(80), "b": None, "c": 0}
    assert record["mIoU"]["mIoU3"] == pytest.approx(40)


def test_means_weighted_by_recall_and_by_ground_truth():
    scores = lib.scores(np.array([[6, 2, 0], [1, 1, 0], [0, 0, 0]], np.int64), THREE)
    assert scores.mean_accuracy == pytest.approx((6 / 8 + 1 / 2) / 2)
    assert scores.weighted_iou == pytest.approx(0.8 * 6 / 9 + 0.2 * 1 / 4)
    record = scores.as_record(THREE)
    assert record["mean_accuracy"] == pytest.approx(62.5)
    assert record["weighted_iou"] == pytest.approx(100 * scores.weighted_iou)


def test_dice_by_hand():
    matrix = np.array([[8, 0, 2], [0, 0, 0], [1, 0, 4]], np.int64)
    scores = lib.scores(matrix, THREE)
    assert scores.dice[0] == pytest.approx(2 * 8 / (10 + 9))
    assert math.isnan(scores.dice[1])
    assert scores.dice[2] == pytest.approx(2 * 4 / (5 + 6))
    assert scores.dice_subsets["mIoU3"] == pytest.approx((16 / 19 + 8 / 11) / 2)
    assert scores.dice_subsets["mIoU2"] == pytest.approx(16 / 19)
    np.testing.assert_allclose(scores.dice, 2 * scores.iou / (1 + scores.iou))
    zero = lib.scores(matrix, THREE, absent="zero")
    assert zero.dice[1] == 0
    assert zero.dice_subsets["mIoU2"] == pytest.approx(8 / 19)
    record = scores.as_record(THREE)
    assert record["dice"] == {"a": pytest.approx(1600 / 19), "b": None, "c": 800 / 11}
    assert record["mDice"]["mIoU2"] == pytest.approx(1600 / 19)
    assert "image_means" not in record


def test_means_over_images_leave_out_an_image_without_the_class():
    classes = class_space("polyp2")
    images = np.array(
        [
            [[[50, 10], [20, 20]]],  # IoU 20/50, Dice 40/70
            [[[90, 0], [0, 10]]],  # found whole
            [[[95, 5], [0, 0]]],  # only predicted: 0
            [[[95, 0], [5, 0]]],  # only there: 0
            [[[100, 0], [0, 0]]],  # neither: left out
        ],
        np.int64,
    )[:, 0]
    rows = lib.overlaps(images, classes.image_means)
    np.testing.assert_array_equal(rows[0], [[20, 40, 30]])
    scores = lib.scores(images.sum(0), classes, images=rows)
    (mean,) = scores.image_means.values()
    assert mean.num_images == 4
    assert mean.iou == pytest.approx((20 / 50 + 1) / 4)
    assert mean.dice == pytest.approx((40 / 70 + 1) / 4)
    assert scores.dice[1] == pytest.approx(2 * 30 / (55 + 45))  # of all images at once
    of_polyp = scores.as_record(classes)["image_means"]["polyp"]
    assert of_polyp == {"iou": 100 * mean.iou, "dice": 100 * mean.dice, "images": 4}
    none = lib.scores(images[4], classes, images=rows[4:])
    assert none.as_record(classes)["image_means"]["polyp"]["dice"] is None


def test_means_over_images_do_not_depend_on_their_order():
    rng = np.random.default_rng(0)
    matrices = rng.integers(0, 1000, (200, 2, 2))
    classes = class_space("polyp2")
    rows = lib.overlaps(matrices, classes.image_means)
    forth, back = (
        lib.scores(matrices.sum(0), classes, images=order).image_means["polyp"]
        for order in (rows, rows[::-1])
    )
    assert forth == back


def test_nothing_labelled():
    scores = lib.scores(np.zeros((3, 3), np.int64), THREE)
    assert math.isnan(scores.subsets["mIoU3"]) and math.isnan(scores.accuracy)
    assert math.isnan(scores.dice_subsets["mIoU3"])
    assert math.isnan(scores.mean_accuracy) and scores.weighted_iou == 0
    assert lib.dtst_scores(np.zeros((3, 3), np.int64)).miou == 0


def test_thirteen_classes_leave_wall_fence_pole_out():
    classes = class_space("synthia16")
    matrix = np.diag(np.full(16, 10)).astype(np.int64)
    matrix[3, 3], matrix[3, 0] = 0, 10
    scores = lib.scores(matrix, classes)
    assert scores.subsets["mIoU13"] == pytest.approx((12 + 0.5) / 13)
    assert scores.subsets["mIoU16"] == pytest.approx((14 + 0.5) / 16)


def test_label_quality_with_and_without_ground_truth():
    truth = np.array([[0, 0, 1, 1, 255]], np.uint8)
    pseudo = np.array([[0, 1, 1, 255, 0]], np.uint8)
    quality = lib.label_quality(lib.label_counts(truth, pseudo, 3))
    assert quality.coverage == pytest.approx(3 / 4)
    assert quality.accuracy == pytest.approx(2 / 3)
    np.testing.assert_allclose(quality.class_coverage, [1, 0.5, np.nan])
    np.testing.assert_allclose(quality.class_accuracy, [0.5, 1, np.nan])
    unknown = lib.label_quality(lib.label_counts(None, pseudo, 3))
    assert unknown.coverage == pytest.approx(4 / 5)
    record = unknown.as_record(THREE)
    assert record["accuracy"] is None and record["per_class"]["a"]["coverage"] is None
