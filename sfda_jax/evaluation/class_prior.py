"""Weights per class that correct a network's taste for frequent classes."""

import numpy as np
from jaxtyping import Float

CITYSCAPES_FREQUENCIES = (
    0.36869696,
    0.06084986,
    0.22824049,
    0.00655399,
    0.00877272,
    0.01227341,
    0.00207795,
    0.0055127,
    0.15928651,
    0.01157818,
    0.04018982,
    0.01218957,
    0.00135122,
    0.06994545,
    0.00267456,
    0.00235192,
    0.00232904,
    0.00098658,
    0.00413907,
)
"""Shares of the 19 classes that DANNet, SePiCo and ATP use on ACDC and Dark Zurich.

They are statistics of labelled source images: a number made with them says so.
"""


def class_weights(
    frequencies: Float[np.ndarray, "c"], *, spread: float = 0.16
) -> Float[np.ndarray, "c"]:
    """Weights of mean 1 that grow as a class gets rarer, float32.

    `(mean(l) - l) / std(l) * spread + 1` with `l = ln(frequencies)` (Wu et al., DANNet,
    2021).

    Args:
        frequencies: share of each class, all above 0.
        spread: standard deviation of the weights.
    """
    logs = np.log(np.asarray(frequencies, np.float32))
    weights = (logs.mean() - logs) / logs.std(ddof=1) * spread + 1
    return weights.astype(np.float32)
