import itertools

import numpy as np
import pytest

from sfda_jax.data import sampling
from sfda_jax.errors import DataError


def test_class_needs_fifty_full_resolution_pixels():
    labels = np.full((20, 20), 255, np.uint8)
    labels[0, :12] = 1
    labels[1, :13] = 2
    present = sampling.classes_present(labels, 3, pixel_area=4)
    assert present.tolist() == [False, False, True]
    assert not sampling.classes_present(labels, 3).any()


def test_lists_follow_names_not_positions():
    presence = np.array([[1, 0], [1, 1], [1, 1]], bool)
    ids = ["c", "a", "b"]
    lists = sampling.class_lists(ids, presence)
    assert [x.tolist() for x in lists] == [[1, 2, 0], [1, 2]]
    by_class, by_id = sampling.class_index(ids, presence)
    assert by_class == [["a", "b", "c"], ["a", "b"]]
    assert by_id == {"c": [0], "a": [0, 1], "b": [0, 1]}


def test_weights_favour_classes_not_emitted():
    even = sampling.rsc_weights(np.zeros(4, np.int64))
    np.testing.assert_allclose(even, 0.25)
    uneven = sampling.rsc_weights(np.array([10, 1, 0]))
    assert uneven[2] > uneven[1] > uneven[0]


class _Scripted:
    def __init__(self, classes):
        self.classes = itertools.cycle(classes)

    def draw_class(self, probs):
        return next(self.classes)

    def shuffle(self, images):
        return images[::-1]


def test_pointer_restarts_at_one_and_singles_emit_nothing():
    presence = np.array([[1, 0], [1, 0], [1, 1]], bool)
    lists = sampling.class_lists(["a", "b", "c"], presence)
    sequence = sampling.rsc_sequence(
        lists, presence, draws=_Scripted([0, 1]), sub_epoch=10
    )
    assert next(sequence) == [0, 1, 2, 1, 0]  # [2, 1, 0] after the shuffle, from 1


def _presence(seed=0, n=30, c=5):
    return np.random.default_rng(seed).random((n, c)) < np.linspace(0.9, 0.1, c)


def _order(presence, seed=0, **settings):
    ids = [f"{i:03d}" for i in range(len(presence))]
    return sampling.rsc_order(ids, presence, np.random.default_rng(seed), **settings)


def test_order_is_reproducible_and_favours_rare_classes():
    presence = _presence()
    order = _order(presence, num_samples=2000, batch_size=4)
    assert order.shape == (2000,)
    again = _order(presence, num_samples=2000, batch_size=4)
    np.testing.assert_array_equal(order, again)
    assert presence[order, -1].mean() > presence[:, -1].mean()


def test_sub_epochs_are_cut_to_whole_batches():
    presence = np.ones((7, 1), bool)
    order = _order(presence, num_samples=8, batch_size=4, sub_epoch=6)
    assert len(order) == 8


def test_sub_epochs_shorter_than_a_batch_are_joined():
    presence = np.ones((3, 1), bool)
    order = _order(presence, num_samples=10, batch_size=10, sub_epoch=4)
    assert len(order) == 10


@pytest.mark.parametrize(
    "presence", [np.zeros((4, 3), bool), np.eye(3, dtype=bool), np.zeros((0, 3), bool)]
)
def test_nothing_to_emit_is_an_error(presence):
    with pytest.raises(DataError, match="no class with 50 pixels"):
        _order(presence, num_samples=4, batch_size=2)
