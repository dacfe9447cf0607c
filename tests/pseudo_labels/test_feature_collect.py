import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sfda_jax.pseudo_labels.feature_collect import (
    PORTIONS,
    RowPool,
    chosen_cells,
    correct_cells,
    drawn_rows,
)
from sfda_jax.tasks import CLASS_SPACES
from sfda_jax.types import IGNORE


def test_portions_are_of_all_classes():
    classes = CLASS_SPACES["cityscapes19"].num_classes
    for portions in PORTIONS.values():
        assert len(portions) == classes
        assert min(portions) > 0 and max(portions) == 1


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.int32])
def test_correct_cells(dtype):
    # the labels' every other row and column, as PyTorch's nearest has it
    labels = (
        jnp.full((1, 4, 6), 9, dtype)
        .at[0, ::2, ::2]
        .set(jnp.asarray([[0, 1, IGNORE], [2, 0, 1]], dtype))
    )
    predicted = jnp.asarray([[[0, 2, 0], [2, 0, 0]]])
    found = correct_cells(labels, jax.nn.one_hot(predicted, 3))
    expected = [[0, IGNORE, IGNORE], [2, 0, IGNORE]]
    np.testing.assert_array_equal(found[0], expected)
    assert found.dtype == jnp.uint8


def test_chosen_cells():
    cells = np.array([[[0, 1, 0, IGNORE]], [[0, 0, 1, 2]]], np.uint8)
    asked = []

    def backwards(count):
        asked.append(count)
        return np.arange(count)[::-1]

    portions = {2: 0.9, 0: 0.5, 1: 1.0, 3: 1.0}
    found = dict(chosen_cells(cells, portions, permutation=backwards))
    assert asked == [1, 4, 2]  # absent classes draw nothing
    assert {c: places.tolist() for c, places in found.items()} == {
        2: [],  # int(0.9)
        0: [5, 4],
        1: [6, 1],
    }


def images(count=6, size=(8, 10), classes=3, seed=0):
    rng = np.random.default_rng(seed)
    cells = rng.choice([*range(classes), IGNORE], (count, *size)).astype(np.uint8)
    draws = rng.random((count, *size), np.float32)
    # the first feature tells which cell a row is of
    features = np.arange(cells.size, dtype=np.float32).reshape(*cells.shape, 1)
    features = np.concatenate([features, rng.random((*cells.shape, 2), np.float32)], -1)
    return features, cells, draws


PORTION = np.array([0.3, 1.0, 0.05], np.float32)


def rows_of(count, batch_size, *, order=None, seed=0):
    """Pools of every class after all images, `count` cells of each."""
    features, cells, draws = images(seed=seed)
    pools = [RowPool(20) for _ in PORTION]
    order = np.arange(len(cells)) if order is None else order
    for start in range(0, len(order), batch_size):
        own = order[start : start + batch_size]
        found = drawn_rows(
            jnp.asarray(features[own]),
            jnp.asarray(cells[own]),
            jnp.asarray(draws[own]),
            portions=jnp.asarray(PORTION),
            count=count,
        )
        features_, classes, numbers = (
            np.asarray(x).reshape(-1, *x.shape[2:]) for x in found
        )
        for class_, pool in enumerate(pools):
            own_rows = classes == class_
            pool.add(features_[own_rows], numbers[own_rows])
    return [pool.rows() for pool in pools]


def test_drawn_rows_are_those_of_the_lowest_draws():
    features, cells, draws = images()
    for class_, found in enumerate(rows_of(80, 2)):
        own = cells == class_
        uniform = draws[own] / PORTION[class_]
        expected = features[own][np.argsort(uniform, kind="stable")]
        expected = expected[: min(20, int((uniform < 1).sum()))]
        assert len(expected) > 2
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "count, batch_size, backwards", [(80, 3, False), (80, 6, True), (40, 1, False)]
)
def test_neither_batches_nor_order_nor_places_matter(count, batch_size, backwards):
    order = np.arange(6)[::-1] if backwards else None
    expected = rows_of(80, 2)
    found = rows_of(count, batch_size, order=order)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_places_without_a_cell():
    features, cells, draws = images(count=1)
    found = drawn_rows(
        jnp.asarray(features),
        jnp.full_like(jnp.asarray(cells), IGNORE),
        jnp.asarray(draws),
        portions=jnp.asarray(PORTION),
        count=5,
    )
    assert (found.classes == IGNORE).all()
    assert jnp.isinf(found.draws).all()


def test_a_portion_of_one_keeps_every_cell():
    features, cells, draws = images(count=1, classes=1)
    found = drawn_rows(
        jnp.asarray(features),
        jnp.asarray(cells),
        jnp.asarray(draws),
        portions=jnp.ones(1),
        count=80,
    )
    kept = np.asarray(found.features)[np.asarray(found.classes) == 0][:, 0]
    np.testing.assert_array_equal(np.sort(kept), np.flatnonzero(cells == 0))


@pytest.mark.parametrize("sizes", [(1, 1, 1), (7, 0, 30), (100,), (3,) * 20])
def test_pool_is_a_sort_of_everything(sizes):
    rng = np.random.default_rng(1)
    rows = [rng.random((size, 2), np.float32) for size in sizes]
    draws = [rng.random(size) for size in sizes]
    lowest, first = RowPool(8), RowPool(8)
    for own, numbers in zip(rows, draws, strict=True):
        lowest.add(own, numbers)
        first.add_next(own)
    every = np.concatenate(rows)
    order = np.argsort(np.concatenate(draws))[:8]
    np.testing.assert_array_equal(lowest.rows(), every[order])
    np.testing.assert_array_equal(first.rows(), every[:8])
    assert lowest.offered == first.offered == sum(sizes)
    lowest.add(every[:1], np.array([-1.0]))
    np.testing.assert_array_equal(lowest.rows()[0], every[0])


def test_an_empty_pool():
    pool = RowPool(3)
    pool.add(np.zeros((0, 4), np.float32), np.zeros(0))
    assert pool.rows().shape[0] == 0
    assert pool.offered == 0


def test_a_pool_is_a_uniform_sample():
    """Each of 60 rows is among the 15 kept in a quarter of the passes."""
    rng, kept = np.random.default_rng(2), np.zeros(60)
    rows = np.arange(60, dtype=np.float32)[:, None]
    for _ in range(800):
        pool = RowPool(15)
        for part in np.split(rows, 6):
            pool.add(part, rng.random(len(part)))
        kept[pool.rows()[:, 0].astype(int)] += 1
    # 200 expected, standard deviation 12.2
    assert kept.sum() == 800 * 15
    assert np.abs(kept - 200).max() < 5 * 12.2
