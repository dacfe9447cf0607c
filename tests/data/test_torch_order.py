import numpy as np
import pytest

from sfda_jax.data.torch_order import fixed_order, torch_randperm, whole_batches
from sfda_jax.errors import DataError

# Torch 2.13 on a CPU: torch.manual_seed(seed); torch.randperm(n)
KNOWN = {
    (10, 0): [4, 1, 7, 5, 3, 9, 0, 8, 6, 2],
    (12, 888): [2, 11, 1, 6, 10, 5, 9, 3, 7, 4, 0, 8],
}


def test_known_permutations():
    for (n, seed), order in KNOWN.items():
        assert torch_randperm(n, seed).tolist() == order


def test_small():
    assert torch_randperm(0).tolist() == []
    assert torch_randperm(1).tolist() == [0]


def test_every_index_once():
    order = torch_randperm(500, seed=3)
    np.testing.assert_array_equal(np.sort(order), np.arange(500))


def test_the_same_rest_is_dropped():
    order = torch_randperm(11)
    kept = whole_batches(order, 4)
    assert kept.tolist() == order[:8].tolist()
    assert fixed_order(11, 4).tolist() == kept.tolist()
    assert whole_batches(order, 11).tolist() == order.tolist()


def test_too_few_for_a_batch():
    with pytest.raises(DataError, match="3 training examples do not fill one batch"):
        whole_batches(torch_randperm(3), 4)
