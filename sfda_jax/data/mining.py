"""Crops centred on rare classes: small-class patch mining of CBST and CRST."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32, UInt8

from sfda_jax.data import image_ops
from sfda_jax.data.training_labels import (
    ReadLabels,
    is_target,
    soft_labels,
    training_labels,
)
from sfda_jax.errors import ConfigError
from sfda_jax.types import Record


@runtime_checkable
class Draws(Protocol):
    """The part of `numpy.random.Generator` that crops draw from."""

    def random(self) -> float:
        """Uniform in [0, 1)."""

    def integers(self, low: int, high: int) -> int:
        """Uniform in low to high - 1."""


def mined_pixel(
    labels: UInt8[np.ndarray, "h w"],
    draws: Draws,
    *,
    priority: Sequence[int],
    others: Sequence[int] = (),
    window: tuple[slice, slice] = (slice(None), slice(None)),
) -> tuple[int, int] | None:
    """A pixel of a rare class: one of the classes present, then one of its pixels.

    Args:
        labels: train ids.
        draws: of the class, then of the pixel in row-major order; of neither if no
            listed class is present.
        priority: classes looked for first.
        others: classes looked for where no class of `priority` is present.
        window: rows and columns where the pixel may lie.

    Returns:
        (row, column) in `labels`, or None.
    """
    rows, columns = (
        part.indices(size)[:2] for part, size in zip(window, labels.shape, strict=True)
    )
    seen = labels[slice(*rows), slice(*columns)]
    counts = np.bincount(seen.ravel(), minlength=256)
    present = [c for c in priority if counts[c]] or [c for c in others if counts[c]]
    if not present:
        return None
    chosen = present[int(draws.integers(0, len(present)))]
    nth = int(draws.integers(0, int(counts[chosen])))
    at = np.flatnonzero(seen == chosen)[nth]
    row, column = divmod(int(at), seen.shape[1])
    return rows[0] + row, columns[0] + column


@dataclasses.dataclass(frozen=True, kw_only=True)
class MiningCrop:
    """A training sample cut out of an image, often around a rare class.

    Gives what `outputs` names, `is_target` and `index`; with `soft`, also
    `soft_labels` float32[h,w,C]: the pseudo-labels' class weights, one-hot for source
    images, 0 where `labels` is 255.

    Attributes:
        scale_range: smallest and largest zoom.
        mine_probability: of trying to centre the crop on a rare class.
        mine_source: mine on source images too.
        priority: rare classes looked for first.
        others: rare classes looked for where no class of `priority` is.
        gamma: exponent of a tone curve, applied to target images first; 1.0 for none.
        pseudo: labels of target images by their id.
        soft: class weights float16[H,W,C] of target images by their id.
        num_classes: C, needed with `soft`.
        outputs: what `apply` returns, by name; `labels` among them.
    """

    scale_range: tuple[float, float]
    mine_probability: float = 0.8
    mine_source: bool
    priority: tuple[int, ...] = ()
    others: tuple[int, ...] = ()
    gamma: float = 1.0
    pseudo: ReadLabels | None = None
    soft: ReadLabels | None = None
    num_classes: int = 0

    outputs: ClassVar[tuple[str, ...]] = ("images", "labels")

    def __post_init__(self):
        low, high = self.scale_range
        if not 0 < low <= high:
            raise ConfigError(
                f"scale_range {self.scale_range}: expected the smallest and the "
                "largest zoom, above 0."
            )
        if self.soft is not None and not self.num_classes:
            raise ConfigError("soft labels need num_classes.")

    def __call__(
        self, record: Record, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """The arrays of one record; it carries its `index`."""
        target = is_target(record)
        labels = training_labels(record, self.pseudo)
        decisions = self.draw(rng, labels, target=target)
        image = image_ops.tone(record["image"], self.gamma if target else 1.0)
        found = self.apply(image, labels, decisions)
        arrays = dict(zip(self.outputs, found, strict=True))
        arrays["is_target"] = np.array(target)
        arrays["index"] = np.array(record["index"], np.int32)
        if self.soft is not None:
            arrays["soft_labels"] = soft_labels(
                record,
                self.soft,
                arrays["labels"],
                num_classes=self.num_classes,
                crop=lambda w: self.apply_soft(w, labels.shape, decisions),
            )
        return arrays

    def draw(
        self, rng: Draws, labels: UInt8[np.ndarray, "h w"], *, target: bool
    ) -> Any:
        """The decisions for one image.

        Args:
            rng: gives numbers in an order of the subclass.
            labels: train ids at the image's size.
            target: which of the two domains it is of.
        """
        raise NotImplementedError

    def apply(
        self,
        image: UInt8[np.ndarray, "h w 3"],
        labels: UInt8[np.ndarray, "h w"],
        decisions: Any,
    ) -> tuple[np.ndarray, ...]:
        """The `outputs`, cut, resized and mirrored alike; pure."""
        raise NotImplementedError

    def apply_soft(
        self,
        weights: Float[np.ndarray, "mh mw c"],
        size: tuple[int, int],
        decisions: Any,
    ) -> Float32[np.ndarray, "ch cw c"]:
        """Class weights of the sample, where `apply` takes its labels.

        Args:
            weights: as stored, of any size.
            size: (height, width) of the image.
            decisions: of the same image.
        """
        raise NotImplementedError
