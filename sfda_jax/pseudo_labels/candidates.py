"""Candidate masks of a training set (TCR): made once per round, read by its stream."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Int, PyTree

from sfda_jax.data import sampling
from sfda_jax.models.forward import enlarged, forward
from sfda_jax.pseudo_labels import ranking
from sfda_jax.pseudo_labels.services import RoundContext
from sfda_jax.types import ModelState, Transform

_FIRST_STRIDE, _NEXT_STRIDE = 4, 2  # of stored candidates


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidates:
    """Predictions of a training set, and what of them is good enough to paste.

    Attributes:
        ids: of the images, in order.
        predictions: train ids of each image, at the stored size.
        kept: the same with `IGNORE` where not good enough.
        certainty: of each image, what thresholds are compared with: the confidence of
            each pixel `[h,w]` in a first round, the agreement of each class `[C]` in a
            later one.
        thresholds: per class `[C]`.
    """

    ids: list[str]
    predictions: Sequence[np.ndarray]
    kept: Sequence[np.ndarray]
    certainty: Sequence[np.ndarray]
    thresholds: np.ndarray

    def maps(self) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """(id, prediction, kept) of each image."""
        return zip(self.ids, self.predictions, self.kept, strict=True)

    def summary(self, full_area: int) -> dict[str, Any]:
        """What a manifest says of them, JSON values; `CandidateIndex` reads it.

        `predicted` and `pastable` are 0/1 `[N][C]`: whether the image's prediction,
        and what is kept of it, has enough pixels of the class, counted in an image of
        `full_area` pixels. `coverage` is the share of each class that is kept.
        """
        num_classes = len(self.thresholds)
        found, kept = (
            np.array([ranking.pixel_counts(x, num_classes=num_classes) for x in maps])
            for maps in (self.predictions, self.kept)
        )
        area = full_area // self.predictions[0].size
        return {
            "ids": self.ids,
            "thresholds": self.thresholds.tolist(),
            "coverage": (kept.sum(0) / np.maximum(found.sum(0), 1)).tolist(),
            "predicted": (found * area >= sampling.MIN_CLASS_PIXELS)
            .astype(int)
            .tolist(),
            "pastable": (kept * area >= sampling.MIN_CLASS_PIXELS).astype(int).tolist(),
        }


def make_predict(
    model: nn.Module,
    size: tuple[int, int],
    *,
    stride: int,
    statistics: Literal["running", "batch"],
) -> Callable[[PyTree, Array], tuple[Array, Array | None]]:
    """`(variables, images) -> (labels uint8, confidence)` at every `stride`-th pixel.

    Args:
        model: the network.
        size: (height, width) the logits are resized to.
        stride: what is left out never leaves the device. At stride 1 confidence is
            None: nobody asks for it, and it would be four times the labels.
        statistics: of BatchNorm, as in `models.forward`.
    """

    def predict(variables, images):
        network = ModelState(variables["params"], variables["batch_stats"])
        output, _ = forward(model, network, images, statistics=statistics)
        logits = enlarged(model, output.logits, size)[:, ::stride, ::stride]
        labels = logits.argmax(axis=-1).astype(jnp.uint8)
        if stride == 1:
            return labels, None
        return labels, jax.nn.softmax(logits).max(axis=-1)

    return predict


def first_candidates(
    batches: Iterable[tuple[list[str], tuple[np.ndarray, np.ndarray]]],
    *,
    num_classes: int,
    portion: float = 0.5,
) -> Candidates:
    """Candidates of a source model: each class's more confident pixels.

    Args:
        batches: (ids, (labels uint8[b,h,w], confidence float32[b,h,w])).
        num_classes: C.
        portion: share of a class's pixels, over the whole set, that is dropped.
    """
    ids, labels, confidence = [], [], []
    for names, (label, sure) in batches:
        ids += names
        labels.append(label)
        confidence.append(sure)
    labels, confidence = np.concatenate(labels), np.concatenate(confidence)
    thresholds = ranking.confidence_thresholds(
        labels, confidence, num_classes=num_classes, portion=portion
    )
    kept = [
        ranking.confident_candidates(label, sure, thresholds)
        for label, sure in zip(labels, confidence, strict=True)
    ]
    return Candidates(
        ids=ids,
        predictions=list(labels),
        kept=kept,
        certainty=list(confidence),
        thresholds=thresholds,
    )


def next_candidates(
    batches: Iterable[tuple[list[str], tuple[np.ndarray, Any]]],
    previous: Callable[[str], np.ndarray],
    *,
    stride: int,
    num_classes: int,
    portion: float = 0.5,
) -> Candidates:
    """Candidates of a later round: classes predicted in an image as before.

    Args:
        batches: (ids, (labels uint8[b,H,W], anything)) at full resolution.
        previous: id → the last round's prediction, at its stored size.
        stride: predictions are kept at every `stride`-th pixel.
        num_classes: C.
        portion: share of the images with a class in which it is dropped.
    """
    ids, labels, agreements = [], [], []
    for names, (label, _) in batches:
        for name, new in zip(names, label, strict=True):
            old = ranking.enlarge(previous(name), new.shape)
            ids.append(name)
            labels.append(np.ascontiguousarray(new[::stride, ::stride]))
            agreements.append(ranking.agreement(new, old, num_classes=num_classes))
    agreements = np.array(agreements)
    thresholds = ranking.agreement_thresholds(agreements, portion)
    kept = [
        ranking.consistent_candidates(label, values, thresholds)
        for label, values in zip(labels, agreements, strict=True)
    ]
    return Candidates(
        ids=ids,
        predictions=labels,
        kept=kept,
        certainty=list(agreements),
        thresholds=thresholds,
    )


def round_candidates(
    ctx: RoundContext,
    model: nn.Module,
    network: ModelState,
    *,
    size: tuple[int, int],
    transform: Transform,
    batch_size: int,
    statistics: Literal["running", "batch"],
    num_classes: int,
    portion: float = 0.5,
) -> Candidates:
    """By confidence in a first round, by agreement with the last one after it.

    Args:
        ctx: of the round.
        model: of the network that predicts.
        network: its variables.
        size: (height, width) at which predictions are compared.
        transform: of the images it sees.
        batch_size: images per forward pass.
        statistics: of BatchNorm.
        num_classes: C.
        portion: as of `first_candidates` and `next_candidates`.
    """
    first = ctx.previous is None
    stride = _FIRST_STRIDE if first else 1
    predictions = ctx.forward(
        make_predict(model, size, stride=stride, statistics=statistics),
        network.variables,
        transform=transform,
        batch_size=batch_size,
    )
    settings = {"num_classes": num_classes, "portion": portion}
    if first:
        return first_candidates(predictions, **settings)
    previous = functools.partial(ctx.previous.read, "predictions")
    return next_candidates(predictions, previous, stride=_NEXT_STRIDE, **settings)


@dataclasses.dataclass(frozen=True)
class CandidateIndex:
    """Which images hold which class, from a manifest.

    Attributes:
        meta: what `Candidates.summary` gave.
    """

    meta: Mapping[str, Any]

    def order(
        self,
        rng: np.random.Generator,
        num_samples: int,
        *,
        batch_size: int,
    ) -> Int[np.ndarray, "{num_samples}"]:
        """Dataset positions to visit, images with rare predicted classes more often."""
        return sampling.rsc_order(
            self.meta["ids"],
            np.asarray(self.meta["predicted"], bool),
            rng,
            num_samples=num_samples,
            batch_size=batch_size,
        )

    def files(self, classes: Iterable[int]) -> dict[int, list[tuple[int, str]]]:
        """Class → (dataset position, id) of the images with candidates of it."""
        holds = np.asarray(self.meta["pastable"], bool)
        ids = self.meta["ids"]
        return {
            c: [(int(i), ids[i]) for i in np.flatnonzero(holds[:, c])] for c in classes
        }
