"""What a pseudo-label selector is: device summaries, host state, thresholds."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Float, Float32, PyTree, UInt8

State = Mapping[str, np.ndarray]
"""A selector's memory: plain host arrays, saved and restored at any batch."""

Total = Callable[[np.ndarray], np.ndarray]
"""Elementwise sum of an array over all processes."""


@runtime_checkable
class Selector(Protocol):
    """Which pixels of a network's prediction become labels.

    A frozen dataclass of settings, called `Selector` in a module of this package.
    `measure` and `propose` are pure and compiled together with the network; the rest
    runs on the host and keeps everything in a `State`, so that a pass can stop after
    any batch and go on later.

    A round runs `num_measures` passes over the target's training images, each ended by
    `settle`, and then one labelling pass. Selectors whose thresholds follow the images
    one after the other (`sequential`) have no measuring pass.

    Attributes:
        num_measures: passes before the labelling one.
        sequential: whether `select` moves the state from batch to batch; then every
            process has to see all batches, otherwise they share them.
    """

    num_measures: int
    sequential: bool

    def init(self, num_classes: int) -> State:
        """The state before the first image of a round."""

    def measure(self, probs: Float[Array, "b h w c"]) -> PyTree:
        """Device: what the host needs of a batch to find thresholds; batch axis first.

        Scores need not sum to 1, nor stay within 0 and 1 (interpolated class maps).
        """

    def update(self, state: State, measured: PyTree, *, scratch: pathlib.Path) -> State:
        """Host: the state after one measured batch; `scratch` takes what is large."""

    def settle(self, state: State, *, scratch: pathlib.Path, total: Total) -> State:
        """Host: the state after a measuring pass over all images of all processes."""

    def thresholds(self, state: State) -> Float32[np.ndarray, "c"]:
        """What `propose` compares with: one number per class."""

    def propose(
        self, probs: Float[Array, "b h w c"], thresholds: Float32[Array, "c"]
    ) -> Mapping[str, Array]:
        """Device: what the host needs of a batch to label it; batch axis first.

        An entry `soft`, float16[b,h,w,C], is stored beside the labels as it is.
        """

    def select(
        self, state: State, proposed: Mapping[str, np.ndarray]
    ) -> tuple[State, UInt8[np.ndarray, "b h w"]]:
        """Host: the state after this batch and its labels, 255 where rejected."""

    def summary(self, state: State) -> dict[str, Any]:
        """JSON values worth keeping: `thresholds` [C], and what else was found."""
