"""The fixed orders of published runs: PyTorch's permutations, without PyTorch."""

import numpy as np
from jaxtyping import Int

from sfda_jax.errors import DataError


def torch_randperm(n: int, seed: int = 0) -> Int[np.ndarray, " {n}"]:
    """`torch.randperm(n)` of a CPU generator with this seed.

    Torch shuffles forwards with the remainders of its Mersenne Twister's 32-bit
    numbers, the twister that NumPy's legacy generator is, too. It does so below
    2**32 / 20 elements only, far more than a dataset holds.
    """
    words = np.random.RandomState(seed).randint(
        0, 2**32, size=max(n - 1, 0), dtype=np.uint32
    )
    order = np.arange(n)
    for place, word in enumerate(words.tolist()):
        other = place + word % (n - place)
        order[place], order[other] = order[other], order[place]
    return order


def whole_batches(
    order: Int[np.ndarray, " n"], batch_size: int
) -> Int[np.ndarray, " m"]:
    """The part of an order that fills batches; repeated, it drops the same rest.

    A stream repeats its order, so that step k sees batch k mod floor(n / batch_size)
    for ever (IAST, section 5.3 of its specification): the last examples of the
    permutation never train.

    Raises:
        DataError: fewer examples than one batch holds.
    """
    count = len(order) // batch_size * batch_size
    if count == 0:
        raise DataError(
            f"{len(order)} training examples do not fill one batch of {batch_size}.",
            hint="Lower the stage's batch_size.",
        )
    return order[:count]


def fixed_order(count: int, batch_size: int) -> Int[np.ndarray, " m"]:
    """Positions of `count` examples in the published order, in whole batches.

    Raises:
        DataError: fewer examples than one batch holds.
    """
    return whole_batches(torch_randperm(count), batch_size)
