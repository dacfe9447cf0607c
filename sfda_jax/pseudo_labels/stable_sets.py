"""The stable images of a training set, and the surest of their candidates (SND).

Both come from a round's candidates and the values these were ranked by, whichever
round it is: confidences of pixels in the first, agreements of classes in later ones.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from sfda_jax.data import sampling
from sfda_jax.pseudo_labels import ranking
from sfda_jax.pseudo_labels.candidates import Candidates
from sfda_jax.types import IGNORE


@dataclasses.dataclass(frozen=True, kw_only=True)
class StableSets:
    """What stable neighbours are made of; masks are made when they are asked for.

    Attributes:
        candidates: of the round.
        thresholds: meta thresholds per class `[C]`, on top of the candidates' own.
        stable: positions of the stable images, most labelled pixels first.
        max_ignored: a mask with a larger share of `IGNORE` is left out.
    """

    candidates: Candidates
    thresholds: Float[np.ndarray, " c"]
    stable: Int[np.ndarray, " k"]
    max_ignored: float

    def mixup(self) -> Iterator[tuple[str, UInt8[np.ndarray, "h w"]]]:
        """(id, mask) of each image that has objects sure enough to be pasted."""
        for name, mask in zip(self.candidates.ids, self._masks(), strict=True):
            if mask is not None:
                yield name, mask

    def labels(self) -> Iterator[tuple[str, UInt8[np.ndarray, "h w"]]]:
        """(id, candidate mask) of each stable image."""
        for i in self.stable:
            yield self.candidates.ids[i], self.candidates.kept[i]

    def summary(self, full_area: int) -> dict[str, Any]:
        """What a manifest says of them, JSON values.

        `CandidateIndex` reads `ids` and `pastable`, here those of the masks of `mixup`;
        an image without a mask has no class. `stable` lists, in rank order, each stable
        image's `position`, `id` and the `classes` of its labels. A class counts from 50
        pixels on, in an image of `full_area` pixels.
        """
        found, num_classes = self.candidates, len(self.thresholds)
        area = full_area // found.predictions[0].size

        def present(labels: np.ndarray) -> np.ndarray:
            return sampling.classes_present(labels, num_classes, pixel_area=area)

        absent = np.zeros(num_classes, bool)
        pastable = [absent if mask is None else present(mask) for mask in self._masks()]
        return {
            "ids": found.ids,
            "thresholds": self.thresholds.tolist(),
            "pastable": np.array(pastable, int).tolist(),
            "stable": [
                {
                    "position": int(i),
                    "id": found.ids[i],
                    "classes": np.flatnonzero(present(found.kept[i])).tolist(),
                }
                for i in self.stable
            ],
        }

    def _masks(self) -> Iterator[np.ndarray | None]:
        """For each image its mask, None where too little is left of it."""
        found = self.candidates
        thresholds = np.maximum(found.thresholds, self.thresholds)
        for labels, values in zip(found.predictions, found.certainty, strict=True):
            if values.ndim == 1:
                mask = ranking.consistent_candidates(labels, values, thresholds)
            else:
                mask = ranking.confident_candidates(labels, values, thresholds)
            yield None if (mask == IGNORE).mean() > self.max_ignored else mask


def stable_sets(
    found: Candidates,
    *,
    portion: float = 0.9,
    share: float = 0.01,
    max_ignored: float = 0.98,
) -> StableSets:
    """The stable sets of a round (stable_st.md, section 3.5).

    Args:
        found: the round's candidates.
        portion: share of a class's pixels (first round) or images (later ones) below
            its meta threshold. The rank is clamped, and the threshold of an absent
            class is 0, where the published code fails.
        share: of the images, int(N share) are stable (TOP_K); may come to none.
        max_ignored: share of `IGNORE` above which an image has nothing to paste.
    """
    labelled = np.array([np.count_nonzero(mask != IGNORE) for mask in found.kept])
    ranked = np.argsort(-labelled, kind="stable")
    return StableSets(
        candidates=found,
        thresholds=_meta_thresholds(found, portion),
        stable=ranked[: int(len(ranked) * share)],
        max_ignored=max_ignored,
    )


def _meta_thresholds(found: Candidates, portion: float) -> np.ndarray:
    values = np.stack(found.certainty)
    if values.ndim == 2:
        return ranking.agreement_thresholds(values, portion)
    return ranking.confidence_thresholds(
        np.stack(found.predictions),
        values,
        num_classes=len(found.thresholds),
        portion=portion,
    )
