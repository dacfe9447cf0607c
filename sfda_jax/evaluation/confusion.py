"""Confusion matrices and the scores read from them (pure)."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
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
        dice: float64[C], the same of Dice, twice the common pixels over the sum of
            ground truth and prediction (F1 of the pixels).
        class_accuracy: float64[C], recall; NaN (or 0) without ground truth.
        subsets: subset name → mean IoU over its classes, NaNs left out.
        dice_subsets: subset name → mean Dice.
        accuracy: share of valid pixels predicted right.
        mean_accuracy: mean of `class_accuracy`, NaNs left out.
        weighted_iou: mean IoU, every class with its share of the ground truth; 0
            without any.
        image_means: class name → mean over images, where they were counted.
    """

    iou: Float[np.ndarray, " c"]
    dice: Float[np.ndarray, " c"]
    class_accuracy: Float[np.ndarray, " c"]
    subsets: Mapping[str, float]
    dice_subsets: Mapping[str, float]
    accuracy: float
    mean_accuracy: float
    weighted_iou: float
    image_means: Mapping[str, "ImageMean"]

    def as_record(self, classes: ClassSpace) -> dict[str, Any]:
        """The scores as JSON values in percent, None for NaN.

        Keys `mIoU` and `mDice` (subset → value), `iou` and `dice` (class → value),
        `accuracy`, `mean_accuracy`, `weighted_iou`, and where there are any
        `image_means` (class → `iou dice images`).
        """

        def by_class(values):
            named = zip(classes.names, values.tolist(), strict=True)
            return {name: percent(value) for name, value in named}

        record = {
            "mIoU": {name: percent(value) for name, value in self.subsets.items()},
            "iou": by_class(self.iou),
            "mDice": {n: percent(value) for n, value in self.dice_subsets.items()},
            "dice": by_class(self.dice),
            "accuracy": percent(self.accuracy),
            "mean_accuracy": percent(self.mean_accuracy),
            "weighted_iou": percent(self.weighted_iou),
        }
        if self.image_means:
            record["image_means"] = {
                name: {
                    "iou": percent(mean.iou),
                    "dice": percent(mean.dice),
                    "images": mean.num_images,
                }
                for name, mean in self.image_means.items()
            }
        return record


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageMean:
    """A class's scores in each image, averaged over images; fractions in [0, 1].

    An image with the class in neither ground truth nor prediction is left out; one
    where it is only predicted, or only there, counts 0.

    Attributes:
        iou: mean IoU; NaN without any image.
        dice: mean Dice.
        num_images: images counted.
    """

    iou: float
    dice: float
    num_images: int


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


def overlaps(
    confusions: Integer[np.ndarray, "*n c c"], ids: Sequence[int]
) -> Integer[np.ndarray, "*n k 3"]:
    """Pixels of some classes: right, in the ground truth, predicted.

    Args:
        confusions: rows are the ground truth.
        ids: k train ids.
    """
    hits = np.diagonal(confusions, axis1=-2, axis2=-1)
    counts = np.stack([hits, confusions.sum(-1), confusions.sum(-2)], axis=-1)
    return counts[..., list(ids), :]


def _iou_and_dice(counts: Integer[np.ndarray, "*n 3"]) -> tuple[np.ndarray, np.ndarray]:
    """IoU and Dice of `overlaps`, NaN for a class in neither truth nor prediction."""
    hits, targets, predicted = np.moveaxis(counts, -1, 0)
    total = targets + predicted
    return ratio(hits, total - hits), ratio(2 * hits, total)


def _image_mean(counts: Integer[np.ndarray, "n 3"]) -> ImageMean:
    values = np.stack(_iou_and_dice(counts))
    values = values[:, ~np.isnan(values[0])]
    count = values.shape[1]
    # fsum: the same whatever the order of the images
    iou, dice = (math.fsum(row) / count if count else math.nan for row in values)
    return ImageMean(iou=iou, dice=dice, num_images=count)


def scores(
    confusion: Int[np.ndarray, "c c"],
    classes: ClassSpace,
    *,
    absent: str = "skip",
    images: Int[np.ndarray, "n k 3"] | None = None,
) -> Scores:
    """Scores by the official Cityscapes rule, from one matrix over all images.

    Args:
        confusion: int64[C,C], rows are the ground truth.
        classes: the class space; its subsets name the means.
        absent: `skip` leaves a class without any pixel out of the means, as the
            official rule does; `zero` counts it as 0 (IAST, CBST, CRST).
        images: `overlaps` of each image, of the classes in `classes.image_means`.
    """
    counts = overlaps(confusion, range(classes.num_classes))
    iou, dice = _iou_and_dice(counts)
    hits, targets, _ = counts.T
    class_accuracy = ratio(hits, targets)
    if absent == "zero":
        iou, dice, class_accuracy = map(np.nan_to_num, (iou, dice, class_accuracy))

    def means(values):
        return {n: _mean(values[list(ids)]) for n, ids in classes.subsets.items()}

    image_means = {}
    if images is not None:
        image_means = {
            classes.names[train_id]: _image_mean(images[:, column])
            for column, train_id in enumerate(classes.image_means)
        }
    return Scores(
        iou=iou,
        dice=dice,
        class_accuracy=class_accuracy,
        subsets=means(iou),
        dice_subsets=means(dice),
        accuracy=float(ratio(hits.sum(keepdims=True), targets.sum(keepdims=True))[0]),
        mean_accuracy=_mean(class_accuracy),
        weighted_iou=float(
            (targets * np.nan_to_num(iou)).sum() / max(targets.sum(), 1)
        ),
        image_means=image_means,
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
