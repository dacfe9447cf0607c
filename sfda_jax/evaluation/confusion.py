"""Confusion matrices and the scores read from them (pure)."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer

from sfda_jax.tasks import ClassSpace
from sfda_jax.types import IGNORE

ABSENT = ("skip", "zero")
"""What classes without any pixel count in means: see `scores`."""


def confusion_matrix(
    labels: Integer[Array, "..."],
    predictions: Integer[Array, "..."],
    num_classes: int,
) -> Int[Array, "c c"]:
    """Pixel counts `int32[C,C]`: rows are the ground truth, columns the prediction.

    Pixels labelled `IGNORE` are dropped with their prediction, so they count in no
    class's false positives.

    Args:
        labels: train ids or `IGNORE`, any shape.
        predictions: train ids, same shape.
        num_classes: C.
    """
    labels = labels.astype(jnp.int32).reshape(-1)
    predictions = predictions.astype(jnp.int32).reshape(-1)
    # Dropped pixels fall into one bin past the end, which the slice removes.
    bins = num_classes * num_classes
    index = jnp.where(labels == IGNORE, bins, labels * num_classes + predictions)
    counts = jnp.bincount(index, length=bins + 1)[:bins]
    return counts.reshape(num_classes, num_classes).astype(jnp.int32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scores:
    """What a confusion matrix says; fractions in [0, 1].

    Attributes:
        iou: float64[C]; for a class in neither ground truth nor prediction NaN (or 0,
            see `scores`), 0 for one that is only predicted.
        class_accuracy: float64[C], recall; NaN (or 0) without ground truth.
        subsets: subset name → mean IoU over its classes, NaNs left out.
        accuracy: share of valid pixels predicted right.
    """

    iou: Float[np.ndarray, " c"]
    class_accuracy: Float[np.ndarray, " c"]
    subsets: Mapping[str, float]
    accuracy: float

    def as_record(self, classes: ClassSpace) -> dict[str, Any]:
        """The scores as JSON values in percent, None for NaN.

        Keys `mIoU` (subset → value), `iou` (class → value) and `accuracy`.
        """
        return {
            "mIoU": {name: percent(value) for name, value in self.subsets.items()},
            "iou": {
                name: percent(value)
                for name, value in zip(classes.names, self.iou.tolist(), strict=True)
            },
            "accuracy": percent(self.accuracy),
        }


def percent(fraction: float) -> float | None:
    """A fraction in percent, None when it is NaN (JSON has no NaN)."""
    return None if math.isnan(fraction) else 100.0 * fraction


def ratio(
    numerator: Int[np.ndarray, "*n"], denominator: Int[np.ndarray, "*n"]
) -> Float[np.ndarray, "*n"]:
    """Elementwise quotient, float64, NaN where the denominator is 0."""
    quotient = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=quotient, where=denominator > 0)
    return quotient


def _mean(values: np.ndarray) -> float:
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else math.nan


def scores(
    confusion: Int[np.ndarray, "c c"], classes: ClassSpace, *, absent: str = "skip"
) -> Scores:
    """Scores by the official Cityscapes rule, from one matrix over all images.

    Args:
        confusion: int64[C,C], rows are the ground truth.
        classes: the class space; its subsets name the means.
        absent: `skip` leaves a class without any pixel out of the means, as the
            official rule does; `zero` counts it as 0 (IAST, CBST, CRST).
    """
    hits = np.diagonal(confusion)
    targets, predicted = confusion.sum(1), confusion.sum(0)
    iou = ratio(hits, targets + predicted - hits)
    class_accuracy = ratio(hits, targets)
    if absent == "zero":
        iou, class_accuracy = np.nan_to_num(iou), np.nan_to_num(class_accuracy)
    return Scores(
        iou=iou,
        class_accuracy=class_accuracy,
        subsets={name: _mean(iou[list(ids)]) for name, ids in classes.subsets.items()},
        accuracy=float(ratio(hits.sum(keepdims=True), targets.sum(keepdims=True))[0]),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DtstScores:
    """DT-ST's own averages: classes absent everywhere count as 0.

    Attributes:
        iou: float64[C].
        accuracy: float64[C], per class.
        miou: plain mean of `iou` over all C classes.
        macc: plain mean of `accuracy`.
        all_accuracy: share of valid pixels predicted right.
    """

    iou: Float[np.ndarray, " c"]
    accuracy: Float[np.ndarray, " c"]
    miou: float
    macc: float
    all_accuracy: float


def dtst_scores(confusion: Int[np.ndarray, "c c"]) -> DtstScores:
    """Scores as the released DT-ST evaluation prints them (CVPR 2023, `test.py`).

    Every denominator has 1e-10 added, so an absent class scores 0 and lowers the mean;
    use it to compare with published logs only, and `scores` for everything else.
    """
    epsilon = 1e-10
    hits = np.diagonal(confusion).astype(np.float64)
    targets, predicted = confusion.sum(1), confusion.sum(0)
    union = (targets + predicted).astype(np.float64) - hits
    iou = hits / (union + epsilon)
    accuracy = hits / (targets.astype(np.float64) + epsilon)
    return DtstScores(
        iou=iou,
        accuracy=accuracy,
        miou=float(iou.mean()),
        macc=float(accuracy.mean()),
        all_accuracy=float(hits.sum() / (float(targets.sum()) + epsilon)),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelQuality:
    """How much of a split pseudo-labels cover, and how often they are right.

    Attributes:
        coverage: share of pixels with a pseudo-label; of those with ground truth
            where there is any.
        accuracy: share of labelled pixels that are right; NaN without ground truth.
        class_coverage: float64[C], share of each true class's pixels labelled.
        class_accuracy: float64[C], share of those labelled with the true class.
        confusion: int64[C,C], rows are the ground truth, labelled pixels only.
    """

    coverage: float
    accuracy: float
    class_coverage: Float[np.ndarray, " c"]
    class_accuracy: Float[np.ndarray, " c"]
    confusion: Int[np.ndarray, "c c"]

    def as_record(self, classes: ClassSpace) -> dict[str, Any]:
        """JSON values in percent, None for NaN: `coverage accuracy per_class`."""
        return {
            "coverage": percent(self.coverage),
            "accuracy": percent(self.accuracy),
            "per_class": {
                name: {"coverage": percent(coverage), "accuracy": percent(accuracy)}
                for name, coverage, accuracy in zip(
                    classes.names,
                    self.class_coverage.tolist(),
                    self.class_accuracy.tolist(),
                    strict=True,
                )
            },
        }


def label_counts(
    labels: Integer[np.ndarray, "..."] | None,
    pseudo_labels: Integer[np.ndarray, "..."],
    num_classes: int,
) -> Int[np.ndarray, "c1 c1"]:
    """Joint counts int64[C+1,C+1] of truth and pseudo-label; index C is `IGNORE`.

    Args:
        labels: ground truth, or None where there is none.
        pseudo_labels: same shape, `IGNORE` where rejected.
        num_classes: C.
    """
    width = num_classes + 1
    pseudo = np.minimum(pseudo_labels.reshape(-1).astype(np.int64), num_classes)
    truth = np.full_like(pseudo, num_classes)
    if labels is not None:
        truth = np.minimum(labels.reshape(-1).astype(np.int64), num_classes)
    counts = np.bincount(truth * width + pseudo, minlength=width * width)
    return counts.reshape(width, width)


def label_quality(counts: Int[np.ndarray, "c1 c1"]) -> LabelQuality:
    """Quality of pseudo-labels from the summed `label_counts` of a split."""
    known = counts[:-1]
    confusion = known[:, :-1]
    basis = known if known.sum() else counts
    labelled = confusion.sum(1)
    hits = np.diagonal(confusion)

    def share(part: np.ndarray, whole: np.ndarray) -> float:
        return float(part.sum() / whole.sum()) if whole.sum() else math.nan

    return LabelQuality(
        coverage=share(basis[:, :-1], basis),
        accuracy=share(hits, labelled),
        class_coverage=ratio(labelled, known.sum(1)),
        class_accuracy=ratio(hits, labelled),
        confusion=confusion,
    )
