"""Rare classes: by share of all pixels, and the smallest."""

import numpy as np

from sfda_jax.pseudo_labels.rare_classes import classes_below, rare_classes


def test_by_size_and_by_id():
    sizes = np.array([500, 2, 0, 400, 1, 97])
    assert classes_below(sizes, 0.01) == (2, 4, 1)
    assert rare_classes(sizes, fraction=0.01, number=4) == ((1, 2, 4), (2, 4, 1, 5))


def test_equal_sizes_by_id():
    assert rare_classes([7] * 19, fraction=0.001, number=3) == ((), (0, 1, 2))


def test_strictly_below():
    assert classes_below([1, 3], 0.25) == ()


def test_nothing_predicted():
    assert classes_below([0, 0], 0.5) == ()
    assert rare_classes([0, 0], fraction=0.5, number=1) == ((), ())
