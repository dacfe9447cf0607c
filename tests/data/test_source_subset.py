import numpy as np
import pytest

from sfda_jax.data.source_subset import joint_order, source_subset
from sfda_jax.errors import DataError


def _order(subset=(), **settings):
    defaults = {"num_source": 9, "num_target": 4, "num_steps": 6, "batch_size": 2}
    rng = np.random.default_rng(settings.pop("seed", 0))
    return joint_order(np.array(subset, int), rng, **{**defaults, **settings})


def test_a_larger_portion_keeps_the_smaller_one():
    small, large = source_subset(50, 0.1, 3), source_subset(50, 0.3, 3)
    assert (len(small), len(large)) == (5, 15)
    np.testing.assert_array_equal(large[:5], small)
    assert set(source_subset(50, 0.1, 4)) != set(small)


def test_published_sizes():
    sizes = {(24966, 0.03): 748, (19984, 0.03): 599, (19984, 0.035): 699}
    for (count, portion), size in sizes.items():
        assert len(source_subset(count, portion, 0)) == size


def test_all_and_none_of_the_source():
    assert source_subset(7, 0.0, 0).size == 0
    assert source_subset(7, 0.14, 0).size == 0
    assert sorted(source_subset(7, 1.0, 0)) == list(range(7))


@pytest.mark.parametrize("portion", [-0.1, 1.1, float("nan")])
def test_refuses_portions(portion):
    with pytest.raises(DataError, match="portion"):
        source_subset(7, portion, 0)


def test_every_epoch_is_a_permutation_of_the_mixture():
    order = _order([8, 2])
    assert order.dtype == np.int64 and len(order) == 12
    epochs = order.reshape(2, 6)
    for epoch in epochs:
        assert sorted(epoch) == [2, 8, 9, 10, 11, 12]
    assert list(epochs[0]) != list(epochs[1])


def test_an_incomplete_batch_is_dropped_with_its_epoch():
    order = _order([8], num_steps=7)  # 5 examples, 2 batches an epoch
    for epoch in order[:12].reshape(3, 4):
        assert len(set(epoch)) == 4
    assert set(order) == {8, 9, 10, 11, 12}
    assert len(order) == 14


def test_target_alone():
    order = _order(num_source=0, num_target=3, batch_size=3, num_steps=2)
    assert sorted(order[:3]) == sorted(order[3:]) == [0, 1, 2]


def test_a_mixture_smaller_than_a_batch_runs_on():
    order = _order(num_source=0, num_target=2, batch_size=5, num_steps=1)
    assert sorted(order[:2]) == sorted(order[2:4]) == [0, 1]
    assert len(order) == 5


def test_the_order_follows_its_generator():
    np.testing.assert_array_equal(_order([1, 2]), _order([1, 2]))
    assert list(_order([1, 2])) != list(_order([1, 2], seed=1))


def test_no_steps_and_nothing_to_visit():
    assert _order(num_steps=0).size == 0
    with pytest.raises(DataError, match="No source and no target"):
        _order(num_target=0)
