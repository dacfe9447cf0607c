"""Signals of a network's health: known values, and no label ever read."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sfda_jax import student_scores
from sfda_jax.data.generated import GeneratedSource
from sfda_jax.data.transforms import Evaluate
from sfda_jax.evaluation import health
from sfda_jax.models.tiny import Model
from sfda_jax.weights.layout import init_state


def probs_of(predictions, num_classes, peak=0.9):
    rest = (1 - peak) / (num_classes - 1)
    probs = np.full((len(predictions), num_classes), rest, np.float32)
    probs[np.arange(len(predictions)), predictions] = peak
    return probs


def test_shares_and_their_effective_number():
    shares = health.class_shares(np.array([0, 0, 2, 2], np.uint8), 4)
    np.testing.assert_array_equal(shares, [0.5, 0, 0.5, 0])
    assert health.effective_number(shares) == pytest.approx(2)
    assert health.effective_number(np.full(5, 0.2)) == pytest.approx(5)
    assert health.effective_number(np.eye(3)[1]) == 1


def test_entropy_is_relative_to_its_maximum():
    assert health.mean_entropy(np.full((7, 5), 0.2, np.float32)) == pytest.approx(1)
    assert health.mean_entropy(np.eye(3, dtype=np.float32)) < 1e-6
    half = np.array([[0.5, 0.5, 0, 0]], np.float32)
    assert health.mean_entropy(half) == pytest.approx(math.log(2) / math.log(4))


def test_total_variation():
    left, right = np.array([0.5, 0.5, 0]), np.array([0, 0.5, 0.5])
    assert health.total_variation(left, right) == 0.5
    assert health.total_variation(left, left) == 0


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        ([0.5, 0.3, 0.2, 0.0, 0.0], 0),  # the last was hardly there
        ([0.7, 0.26, 0.04, 0.0, 0.0], 1 / 3),  # a fifth is left of the third
        ([1.0, 0.0, 0.0, 0.0, 0.0], 2 / 3),
        ([0.0, 0.0, 0.0, 0.5, 0.5], 1),
    ],
)
def test_vanished_classes(now, expected):
    start = np.array([0.5, 0.2995, 0.2, 0.0005, 0.0])
    assert health.vanished_classes(np.array(now), start) == pytest.approx(expected)


def test_nothing_there_nothing_vanishes():
    assert health.vanished_classes(np.full(2, 0.5), np.zeros(2)) == 0


def test_first_look_and_the_next():
    first = np.array([0, 0, 0, 1, 1, 2], np.uint8)
    second = np.array([0, 0, 0, 0, 1, 1], np.uint8)
    start = health.measure(probs_of(first, 3))
    assert start.churn is None and start.drift == start.vanished == 0
    np.testing.assert_array_equal(health.predicted(probs_of(first, 3)), first)
    look = health.measure(probs_of(second, 3), before=first, start=start.shares)
    assert look.churn == pytest.approx(2 / 6)
    assert look.drift == pytest.approx(1 / 6)
    assert look.vanished == pytest.approx(1 / 3)
    assert look.effective_classes < start.effective_classes
    record = look.as_record(("a", "b", "c"))
    assert record["shares"] == {"a": 66.667, "b": 33.333, "c": 0.0}


def test_scores_are_those_of_dtu():
    probs = np.random.default_rng(0).dirichlet(np.ones(4), 700).astype(np.float32)
    look, probs = health.measure(probs), jnp.asarray(probs)
    positions = student_scores.draw_positions(jax.random.key(0), 700, health.COMPARED)
    density = student_scores.soft_neighbourhood_density(probs, positions)
    assert look.soft_nd == pytest.approx(float(density), rel=1e-5)
    certainty = student_scores.peak_certainty(probs)
    assert look.ent == pytest.approx(float(certainty), rel=1e-5)


def test_grid_keeps_corners_and_small_maps():
    rows, columns = health.GRID
    large = np.arange(2 * rows * 3 * columns).reshape(2 * rows, 3 * columns, 1)
    kept = health.on_grid(large)
    assert kept.shape == (rows, columns, 1)
    assert (kept[0, 0], kept[-1, -1]) == (large[0, 0], large[-1, -1])
    small = large[:5, :7]
    np.testing.assert_array_equal(health.on_grid(small), small)


def test_labels_are_not_looked_at():
    class Unlabelled(GeneratedSource):
        def __getitem__(self, index):
            record = super().__getitem__(index)
            assert "label" not in record
            return record

    model = Model(num_classes=5)
    state = init_state(model, jax.random.key(0))
    source = Unlabelled(size=(24, 48), num_classes=5, labelled=False)
    look = {"positions": [0, 3], "transform": Evaluate(size=(24, 48))}
    probs = health.sampled_probs(model, state.variables, source, **look)
    np.testing.assert_allclose(probs.sum(axis=1), 1, rtol=1e-5)
    one = {**look, "positions": [3]}
    alone = health.sampled_probs(model, state.variables, source, **one)
    np.testing.assert_array_equal(probs[len(alone) :], alone)
