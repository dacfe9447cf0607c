"""Which source images a round of CBST or CRST sees, and the order of the mixture."""

import math

import numpy as np
from jaxtyping import Int

from sfda_jax.errors import DataError


def source_subset(count: int, portion: float, seed: int) -> Int[np.ndarray, "_"]:
    """The source images of a round: the first of a seeded permutation, in its order.

    CBST and CRST, cbst_crst.md section 5.1. One seed with a growing portion keeps what
    earlier rounds had; a seed per round draws anew.

    Args:
        count: images of the source.
        portion: of them, 0 to 1; floor(count * portion) are taken, 0 of them allowed.
        seed: of NumPy's legacy generator, as published.

    Returns:
        int64 positions.

    Raises:
        DataError: portion outside 0 to 1.
    """
    if not 0 <= portion <= 1:
        raise DataError(f"source portion {portion}: expected 0 to 1.")
    order = np.random.RandomState(seed).permutation(count)
    return order[: math.floor(count * portion)].astype(np.int64)


def joint_order(
    subset: Int[np.ndarray, "_"],
    rng: np.random.Generator,
    *,
    num_source: int,
    num_target: int,
    num_steps: int,
    batch_size: int,
) -> Int[np.ndarray, "_"]:
    """The examples of `num_steps` batches: source subset and all targets, shuffled.

    Every epoch is a new permutation, cut to whole batches as published (CBST). A
    mixture smaller than one batch runs on from one epoch to the next.

    Args:
        subset: positions in the source; empty without source.
        rng: generator of the permutations.
        num_source: images of the source; target i is example num_source + i. 0 for a
            stream of the target alone.
        num_target: images of the target.
        num_steps: batches.
        batch_size: examples of a batch.

    Returns:
        int64[num_steps * batch_size], indices of a stream of domain `both`.

    Raises:
        DataError: there is nothing to visit.
    """
    examples = np.concatenate([subset, num_source + np.arange(num_target)])
    if examples.size == 0:
        raise DataError("No source and no target image to train on.")
    whole = examples.size // batch_size * batch_size or examples.size
    epochs = -(-num_steps * batch_size // whole)
    parts = [rng.permutation(examples)[:whole] for _ in range(epochs)]
    order = np.concatenate([np.zeros(0, np.int64), *parts])
    return order[: num_steps * batch_size].astype(np.int64)
