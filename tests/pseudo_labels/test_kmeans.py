"""k-means: chunks, devices, empty centres, seeds, and scikit-learn beside it."""

import jax
import numpy as np
import pytest

from sfda_jax.errors import DataError
from sfda_jax.pseudo_labels.kmeans import (
    assign,
    cheapest_start,
    cluster,
    draw_restarts,
    lloyd,
    seed_centres,
)
from sfda_jax.pseudo_labels.placed_rows import place_rows


def blobs(count=300, dims=4, centres=5):
    rng = np.random.default_rng(0)
    middle = rng.normal(0, 10, (centres, dims))
    x = middle[rng.integers(0, centres, count)] + rng.normal(size=(count, dims))
    return x.astype(np.float32)


def placed(x, devices=1, **choice):
    return place_rows(x, devices=jax.devices()[:devices], **choice)


def test_sums_of_any_chunk_and_device_count_are_the_same():
    x = blobs(101)
    whole = placed(x)
    np.testing.assert_allclose(whole.mean, x.mean(0), rtol=1e-5)
    for devices, chunk, capacity in ((8, 4, 0), (3, 16, 500)):
        rows = placed(x, devices, chunk=chunk, capacity=capacity)
        assert rows.count == 101
        np.testing.assert_allclose(rows.mean, whole.mean, rtol=1e-5)
        found = cluster(rows, x[:5])
        labels, squared = assign(rows, found.centres)
        expected = cluster(whole, x[:5])
        np.testing.assert_allclose(found.centres, expected.centres, rtol=1e-4)
        assert found.num_iters == expected.num_iters
        np.testing.assert_array_equal(labels, assign(whole, expected.centres)[0])
        own = ((x - found.centres[labels]) ** 2).sum(1)
        np.testing.assert_allclose(squared, own, rtol=1e-3, atol=1e-3)


def test_order_of_rows_changes_nothing():
    x = blobs()
    seeds = x[:5]
    found = cluster(placed(x), seeds).centres
    shuffled = np.random.default_rng(1).permutation(x)
    np.testing.assert_allclose(cluster(placed(shuffled), seeds).centres, found, 1e-4)


def test_a_centre_without_rows_stays():
    x = blobs()
    seeds = np.concatenate([x[:3], np.full((1, 4), 1e3, np.float32)])
    found = cluster(placed(x), seeds).centres
    np.testing.assert_array_equal(found[3], seeds[3])
    assert np.isfinite(found).all()


def test_ties_go_to_the_lowest_index():
    x = np.zeros((4, 2), np.float32)
    seeds = np.array([[1, 0], [-1, 0], [1, 0]], np.float32)
    labels, squared = assign(placed(x), seeds)
    assert labels.tolist() == [0] * 4
    np.testing.assert_allclose(squared, 1, rtol=1e-6)


def test_stops_at_max_iter():
    rows = placed(blobs())
    found = lloyd(rows, rows.local[:5], settled=lambda moved: False, max_iter=3)
    assert found.num_iters == 3


def test_same_as_scikit_learn():
    sklearn = pytest.importorskip("sklearn.cluster")
    x = blobs(500, dims=6, centres=8)
    seeds = x[:12]
    theirs = sklearn.KMeans(12, init=seeds, n_init=1, tol=1e-4).fit(x)
    rows = placed(x)
    ours = cluster(rows, seeds)
    assert ours.num_iters == theirs.n_iter_
    np.testing.assert_allclose(ours.centres, theirs.cluster_centers_, atol=1e-4)
    np.testing.assert_array_equal(assign(rows, ours.centres)[0], theirs.labels_)


def test_seeds_are_rows_and_spread():
    x = blobs(400, centres=6)
    rows = placed(x, 8, chunk=16)
    seeds = seed_centres(rows, 6, np.random.default_rng(0))
    assert {tuple(seed) for seed in seeds} <= {tuple(row) for row in x}
    # greedy seeds find all six blobs, which six random rows almost never do
    assert assign(rows, seeds)[1].max() < 60
    plain = seed_centres(rows, 6, np.random.default_rng(0), trials=1)
    assert len({tuple(seed) for seed in plain}) == 6


def test_seeds_are_drawn_by_squared_distance():
    """Of rows at 0, 1 and 3, the second seed is the far one nine times in ten."""
    x = np.array([[0.0], [1.0], [3.0]], np.float32)
    rows = placed(x)
    far = total = 0
    for seed in range(120):
        first, second = seed_centres(rows, 2, np.random.default_rng(seed), trials=1)
        if first == 0:
            total += 1
            far += second == 3
    assert total > 25 and 0.75 < float(far[0]) / total < 1


def test_equal_rows_have_seeds():
    seeds = seed_centres(
        placed(np.ones((5, 2), np.float32)), 3, np.random.default_rng()
    )
    np.testing.assert_array_equal(seeds, np.ones((3, 2)))


def test_restarts_take_the_cheapest_and_rows_once():
    x = blobs()
    places = draw_restarts(np.random.default_rng(0), 300, num_centres=5, restarts=20)
    assert all(len(set(one)) == 5 for one in places.tolist())
    start = cheapest_start(placed(x), places)
    scale = x.max() - x.min()
    squared = ((x[:, None, None] - x[places]) ** 2).sum(-1)
    expected = np.sqrt(squared.min(2)).sum(0) / scale
    np.testing.assert_allclose(start.costs, expected, rtol=1e-3)
    assert start.best == expected.argmin()
    moved = lloyd(
        placed(x),
        x[places[start.best]],
        settled=lambda distances: distances.max() <= 1e-3 * scale,
    )
    np.testing.assert_array_equal(start.centres, moved.centres)


def test_too_few_rows():
    rows = placed(np.zeros((2, 3), np.float32))
    with pytest.raises(DataError, match="k-means of 2 rows: at least 3"):
        cheapest_start(rows, np.zeros((1, 3), np.int64))
    with pytest.raises(DataError, match="0 rows"):
        seed_centres(placed(np.zeros((0, 3), np.float32)), 2, np.random.default_rng())
