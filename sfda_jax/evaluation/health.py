"""Signals of a network's health on images without labels.

A self-training that collapses says so without any label: classes vanish, predictions
turn over, certainty runs away from where the stage began. Everything is measured at a
fixed grid of positions of the same few images, on the network's own logits.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jaxtyping import Float, PyTree, Shaped, UInt8

from sfda_jax import student_scores
from sfda_jax.evaluation.evaluator import network_logits
from sfda_jax.types import RandomAccess, Transform

GRID = (64, 128)
"""Rows and columns of logits looked at in each image, at most."""

COMPARED = 512
"""Pixels that `soft_nd` compares."""

PRESENT, SHRUNK = 1e-3, 0.2
"""From which share of the pixels on a class counts, and to what part it shrinks."""

_score = jax.jit(student_scores.score, static_argnums=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Signals:
    """What one look at a network shows; no label is needed for any of it.

    Attributes:
        entropy: mean entropy of the pixels' probabilities over log C, in 0..1.
        effective_classes: exp of the entropy of the predicted classes' shares, 1..C.
        vanished: share of the classes there were at the stage's start (`PRESENT` or
            more of the pixels) that have shrunk to `SHRUNK` of that or less.
        churn: share of pixels whose class has changed since the look before; None at
            the first look.
        drift: total variation between the classes' shares now and at the stage's
            start, in 0..1.
        soft_nd: DTU's soft neighbourhood density; larger is better.
        ent: DTU's peak certainty; larger is better.
        shares: of the predicted classes `[C]`.
    """

    entropy: float
    effective_classes: float
    vanished: float
    churn: float | None
    drift: float
    soft_nd: float
    ent: float
    shares: Float[np.ndarray, " c"]

    def as_record(self, names: Sequence[str]) -> dict[str, Any]:
        """For the log; shares in percent by class name."""
        record = dataclasses.asdict(self)
        shares = (100 * self.shares).round(3).tolist()
        return {**record, "shares": dict(zip(names, shares, strict=True))}


def sampled_probs(
    model: nn.Module,
    variables: PyTree,
    source: RandomAccess,
    *,
    positions: Sequence[int],
    transform: Transform,
) -> Float[np.ndarray, "n c"]:
    """Class probabilities on the grid of some images, one after the other.

    One image per forward pass, on the first device of this process: the same program
    whatever the device count.

    Args:
        model: the network.
        variables: its parameters and statistics.
        source: images; labels are not looked at.
        positions: which of them.
        transform: the host side of evaluation.
    """
    placed = jax.device_put(jax.device_get(variables), jax.local_devices()[0])
    rows = []
    for position in positions:
        record = {k: source[position][k] for k in ("id", "image")}
        images = transform(record, np.random.default_rng(0))["images"]
        (logits,) = network_logits(model, placed, images[None])
        grid = on_grid(np.asarray(logits[0]))
        rows.append(grid.reshape(-1, grid.shape[-1]))
    return np.asarray(jax.nn.softmax(np.concatenate(rows), axis=-1))


def on_grid(logits: Shaped[np.ndarray, "h w c"]) -> Shaped[np.ndarray, "_h _w c"]:
    """Evenly spread rows and columns, `GRID` at most."""
    for axis, most in enumerate(GRID):
        size = logits.shape[axis]
        kept = np.linspace(0, size - 1, min(size, most)).round().astype(int)
        logits = np.take(logits, kept, axis=axis)
    return logits


def predicted(probs: Float[np.ndarray, "n c"]) -> UInt8[np.ndarray, " n"]:
    """The likeliest class of each pixel."""
    return probs.argmax(axis=1).astype(np.uint8)


def class_shares(
    predictions: UInt8[np.ndarray, " n"], num_classes: int
) -> Float[np.ndarray, " c"]:
    """Share of the pixels predicted as each class."""
    return np.bincount(predictions, minlength=num_classes) / predictions.size


def mean_entropy(probs: Float[np.ndarray, "n c"]) -> float:
    """Mean entropy of the pixels over log C, in 0..1."""
    wide = np.maximum(probs.astype(np.float64), 1e-12)
    return float(-(wide * np.log(wide)).sum(axis=1).mean() / math.log(probs.shape[1]))


def effective_number(shares: Float[np.ndarray, " c"]) -> float:
    """exp of the shares' entropy: how many equally frequent classes they amount to."""
    present = shares[shares > 0]
    return float(np.exp(-(present * np.log(present)).sum()))


def total_variation(
    left: Float[np.ndarray, " c"], right: Float[np.ndarray, " c"]
) -> float:
    """Half the sum of absolute differences of two distributions, in 0..1."""
    return float(np.abs(left - right).sum() / 2)


def vanished_classes(
    shares: Float[np.ndarray, " c"], start: Float[np.ndarray, " c"]
) -> float:
    """Share of the classes present at the start that are hardly predicted any more."""
    present = start >= PRESENT
    gone = present & (shares <= SHRUNK * start)
    return float(gone.sum() / max(present.sum(), 1))


def measure(
    probs: Float[np.ndarray, "n c"],
    *,
    before: UInt8[np.ndarray, " n"] | None = None,
    start: Float[np.ndarray, " c"] | None = None,
) -> Signals:
    """All signals of one look.

    Args:
        probs: of `sampled_probs`.
        before: what was predicted at the look before.
        start: the classes' shares when the stage began; None: it begins now.
    """
    predictions = predicted(probs)
    shares = class_shares(predictions, probs.shape[1])
    start = shares if start is None else start
    count = min(COMPARED, len(probs))
    positions = student_scores.draw_positions(jax.random.key(0), len(probs), count)
    return Signals(
        entropy=mean_entropy(probs),
        effective_classes=effective_number(shares),
        vanished=vanished_classes(shares, start),
        churn=None if before is None else float((predictions != before).mean()),
        drift=total_variation(shares, start),
        soft_nd=_score("soft_nd", probs, positions).item(),
        ent=_score("ent", probs, positions).item(),
        shares=shares,
    )
