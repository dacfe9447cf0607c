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
    record = scores.as_record(THREE)
    assert record["iou"] == {"a": pytest.approx(80), "b": None, "c": 0}
    assert record["mIoU"]["mIoU3"] == pytest.approx(40)


def test_nothing_labelled():
    scores = lib.scores(np.zeros((3, 3), np.int64), THREE)
    assert math.isnan(scores.subsets["mIoU3"]) and math.isnan(scores.accuracy)
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
