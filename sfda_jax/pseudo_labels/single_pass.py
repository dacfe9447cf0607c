"""The half of a selector that a round without measuring passes never calls."""

import pathlib
from typing import ClassVar

from jaxtyping import Array, Float, PyTree

from sfda_jax.pseudo_labels.selector import State, Total


class SinglePass:
    """Base of selectors that measure nothing before they label."""

    num_measures: ClassVar[int] = 0

    def measure(self, probs: Float[Array, "b h w c"]) -> PyTree:
        """Nothing."""
        return ()

    def update(self, state: State, measured: PyTree, *, scratch: pathlib.Path) -> State:
        """The state as it was."""
        return state

    def settle(self, state: State, *, scratch: pathlib.Path, total: Total) -> State:
        """The state as it was."""
        return state
