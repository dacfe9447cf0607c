"""What a network is sure of, and stays sure of: ranks within each class (TCR).

Host functions in two passes over a training set: the first collects confidences or
agreements, the thresholds follow, the second masks each image. Exact, not binned.
"""

import numpy as np
from jaxtyping import Float, Num, Shaped, UInt8

from sfda_jax.types import IGNORE


def value_at(values: Num[np.ndarray, " n"], portion: float) -> float:
    """`sorted(values)[round(portion * n)]`, half to even; 0 where there is none."""
    if not values.size:
        return 0.0
    rank = min(round(portion * values.size), values.size - 1)
    return float(np.partition(values, rank)[rank])


def confidence_thresholds(
    labels: UInt8[np.ndarray, "*n h w"],
    confidence: Float[np.ndarray, "*n h w"],
    *,
    num_classes: int,
    portion: float = 0.5,
) -> Float[np.ndarray, " {num_classes}"]:
    """Per class, the confidence that a `portion` of its pixels stay below.

    Args:
        labels: predictions over the whole set `[N,h,w]`.
        confidence: their probabilities `[N,h,w]`.
        num_classes: C.
        portion: 0.5 takes the median (DT-ST, TOPK_CANDIDATE).

    Returns:
        float64 `[C]`, 0 for classes that are never predicted.
    """
    return np.array(
        [value_at(confidence[labels == c], portion) for c in range(num_classes)]
    )


def confident_candidates(
    labels: UInt8[np.ndarray, "*n h w"],
    confidence: Float[np.ndarray, "*n h w"],
    thresholds: Float[np.ndarray, " c"],
) -> UInt8[np.ndarray, "*n h w"]:
    """`labels`, with `IGNORE` where the confidence is below its class's threshold."""
    return np.where(confidence < thresholds[labels], IGNORE, labels).astype(np.uint8)


def agreement(
    new: UInt8[np.ndarray, "h w"], old: UInt8[np.ndarray, "h w"], *, num_classes: int
) -> Float[np.ndarray, " {num_classes}"]:
    """IoU of two predictions of one image, per class `[C]` (DT-ST, reliability)."""
    pairs = old.astype(np.int64) * num_classes + new
    counts = np.bincount(pairs.ravel(), minlength=num_classes**2)
    counts = counts.reshape(num_classes, num_classes)
    both = counts.diagonal()
    return both / (counts.sum(0) + counts.sum(1) - both + 1e-8)


def agreement_thresholds(
    agreements: Float[np.ndarray, "n c"], portion: float = 0.5
) -> Float[np.ndarray, " c"]:
    """Per class, the agreement that a `portion` of the images stay below.

    Images without the class (agreement 0) do not count; 0 where no image has it.
    """
    return np.array([value_at(v[v > 0], portion) for v in agreements.T])


def consistent_candidates(
    labels: UInt8[np.ndarray, "h w"],
    agreements: Float[np.ndarray, " c"],
    thresholds: Float[np.ndarray, " c"],
) -> UInt8[np.ndarray, "h w"]:
    """One image's labels without the classes whose agreement is below threshold."""
    dropped = agreements < thresholds
    return np.where(dropped[labels], IGNORE, labels).astype(np.uint8)


def enlarge(
    labels: Shaped[np.ndarray, "h w"], size: tuple[int, int]
) -> Shaped[np.ndarray, "H W"]:
    """A map stored at a fraction of `size`, its pixels repeated to fill it."""
    factors = [full // stored for full, stored in zip(size, labels.shape, strict=True)]
    return labels.repeat(factors[0], axis=0).repeat(factors[1], axis=1)


def pixel_counts(
    labels: UInt8[np.ndarray, "h w"], *, num_classes: int
) -> Num[np.ndarray, " {num_classes}"]:
    """How many pixels each class has `[C]`; `IGNORE` is not counted."""
    counts = np.bincount(labels.ravel(), minlength=IGNORE + 1)
    return counts[:num_classes]
