"""Procedural stand-ins for any dataset: benchmarks without a download."""

import dataclasses
import functools

import numpy as np

from sfda_jax.data.scenes import render
from sfda_jax.types import IGNORE, Record

_DISTINCT = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class GeneratedSource:
    """Random access to a few procedural scenes, repeated.

    Attributes:
        size: (height, width).
        num_classes: train ids are folded into this many classes.
        labelled: whether records carry a `label`.
        count: how many examples it claims to hold.
    """

    size: tuple[int, int]
    num_classes: int
    labelled: bool
    count: int = 64

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Record:
        image, label = _scene(index % _DISTINCT, self.size)
        record = {"image": image, "id": f"generated_{index:04d}"}
        if self.labelled:
            folded = label % np.uint8(self.num_classes)
            record["label"] = np.where(label == IGNORE, label, folded)
        return record


@functools.cache
def _scene(index: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    return render(index, look="game", seed=0, size=size)
