"""The r-th largest of any number of values to a known error, in one pass.

Bins are uniform in the bit pattern of 1 - value, so that they are finest where
confidences crowd: next to 1.
"""

import dataclasses
import logging
import pathlib
from typing import ClassVar

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from sfda_jax.errors import ConfigError
from sfda_jax.pseudo_labels.confidence_ranks import count_bins, locate
from sfda_jax.pseudo_labels.selector import State, Total

_log = logging.getLogger(__name__)

_OCTAVES = 24  # from 1 - value = 1 down to 2^-24, the spacing of float32 below 1
_LOWEST = (127 - _OCTAVES) << 23  # bit pattern of 2^-24


@dataclasses.dataclass(frozen=True)
class Histogram:
    """`G` × (24 · 2^bits + 2) counts whatever the number of values.

    What is found lies below the exact value by at most 2^-bits · (1 - value) and one
    spacing of float32. Values of 1 and more share the first bin, and count as 1; those
    of 0 and less share the last one.

    Attributes:
        bits: of the mantissa of 1 - value that tell bins apart, 1 to 23.
    """

    bits: int = 12
    passes: ClassVar[int] = 1

    @property
    def num_bins(self) -> int:
        """Bins of a group."""
        return (_OCTAVES << self.bits) + 2

    def init(self, num_groups: int) -> State:
        """No counts."""
        return {
            "bins": np.zeros((num_groups, self.num_bins), np.int64),
            "above_one": np.zeros(num_groups, np.int64),
        }

    def add(
        self,
        state: State,
        groups: UInt8[np.ndarray, "n"],
        values: Float32[np.ndarray, "n"],
        *,
        scratch: pathlib.Path,
    ) -> State:
        """Counts the values."""
        bins = state["bins"] + count_bins(
            groups, self.places(values), state["bins"].shape
        )
        above = np.bincount(groups[values > 1], minlength=len(bins))
        return {**state, "bins": bins, "above_one": state["above_one"] + above}

    def settle(
        self,
        state: State,
        *,
        ranks: Int64[np.ndarray, "g"],
        zeros: Int64[np.ndarray, "g"],
        scratch: pathlib.Path,
        total: Total,
    ) -> State:
        """Takes the lower edge of the bin that holds the value.

        The state gets `in_bin` int64[G] too, the values in that bin: an upper bound of
        the error in rank; `above_one` becomes the sum over all processes.

        Raises:
            ConfigError: a value wanted is so near 0 that it cannot be told from it.
        """
        counts = total(state["bins"]).copy()
        counts[:, -1] += zeros
        places, _ = locate(counts, ranks)
        found, above = self.lower_edges(places), total(state["above_one"])
        wanted = (ranks > 0) & (places < self.num_bins - 1)
        if (wanted & (found <= self.error(found))).any():
            raise ConfigError(
                "Scores are too small for selector.accumulate = 'hist': thresholds "
                f"down to {found[wanted].min():.1e}, bins of {2.0**-self.bits:.1e}.",
                hint="Set it to exact_spool or exact_radix (spatial priors need it).",
            )
        if above.any():
            _log.warning("%d scores above 1 count as 1.", above.sum())
        in_bin = counts[np.arange(len(places)), places]
        return {"found": found, "in_bin": in_bin, "above_one": above}

    def places(self, values: Float32[np.ndarray, "n"]) -> Int64[np.ndarray, "n"]:
        """The bin of each value; the largest values have the first bin."""
        rest = np.float32(1) - values
        shift = 23 - self.bits
        bins = (rest.view(np.uint32).astype(np.int64) >> shift) - (_LOWEST >> shift) + 1
        return np.where(rest > 0, np.minimum(bins, self.num_bins - 1), 0)

    def lower_edges(self, places: Int64[np.ndarray, "g"]) -> Float32[np.ndarray, "g"]:
        """The confidence below every value of a bin, rounded down; 1 for the first."""
        shift = 23 - self.bits
        upper = ((places + (_LOWEST >> shift)) << shift).astype(np.uint32)
        exact = 1 - upper.view(np.float32).astype(np.float64)
        edges = exact.astype(np.float32)
        edges = np.where(edges > exact, np.nextafter(edges, np.float32(-1)), edges)
        return np.where(places == 0, np.float32(1), edges)

    def error(self, found: Float32[np.ndarray, "g"]) -> Float32[np.ndarray, "g"]:
        """What is found lies below the exact value by no more than this."""
        return np.float32(2.0**-self.bits) * (1 - found) + np.float32(2.0**-24)
