import numpy as np
import pytest

from sfda_jax.data.list_order import in_published_order
from sfda_jax.data.lists import load_list


@pytest.mark.parametrize("name", ["gta5_iast", "synthia_all"])
def test_orders_hold_exactly_their_list(name):
    wanted = load_list(name)
    order = in_published_order(name, sorted(wanted.names), np.arange(wanted.count))
    assert sorted(order) == list(range(wanted.count))
    assert (np.diff(order) != 1).mean() > 0.99  # shuffled once


def test_orders_of_a_part_keep_the_published_sequence():
    ids = sorted(load_list("gta5_iast").names)
    some = ["02154", *ids[10:40:3]]  # the first is not on the list
    whole = in_published_order("gta5_iast", ids, np.arange(len(ids)))
    part = in_published_order("gta5_iast", some, np.arange(1, len(some)))
    names = [some[i] for i in part]
    assert names == [ids[i] for i in whole if ids[i] in names]
    assert len(names) == 10


def test_lists_without_an_own_order_stay_in_file_order():
    positions = np.array([2, 4, 5])
    order = in_published_order("gta5_all", ["a", "b", "c", "d", "e", "f"], positions)
    np.testing.assert_array_equal(order, positions)
