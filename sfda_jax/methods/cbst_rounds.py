"""The published rounds of CBST and CRST, written out as a recipe's `rounds`."""

import math
from typing import Any

from sfda_jax.registry import check_choice

EPOCHS = 2
"""Passes over a round's images, in both systems."""


def round_steps(
    num_source: int, num_target: int, *, batch_size: int = 2, epochs: int = EPOCHS
) -> int:
    """Steps of a round: whole batches of the source subset and all targets, at least
    one an epoch.

    Example:
        >>> round_steps(748, 505, epochs=1)
        626
    """
    return max((num_source + num_target) // batch_size, 1) * epochs


def cbst_rounds(
    num_rounds: int = 6,
    *,
    num_source: int,
    num_target: int,
    portion: float = 0.2,
    portion_step: float = 0.05,
    portion_max: float = 0.5,
    source_portion: float = 0.03,
    source_portion_step: float = 0.0025,
    source_portion_max: float = 0.06,
    source_policy: str = "cumulative",
    source_seed: int = 0,
    learning_rate: float = 1e-4,
    rate_factor: float = 1 / math.sqrt(2),
    batch_size: int = 2,
    epochs: int = EPOCHS,
) -> list[dict[str, Any]]:
    """Rounds of CBST and its spatial-prior and self-training variants.

    A portion grows after a round while it is below its maximum, without a clamp: it
    may end one step above (section 8.1 of the specification). As published, values
    have 12 digits.

    Args:
        num_rounds: R.
        num_source: images of the source; 0 leaves it out (source-free).
        num_target: images of the target.
        portion: of the pixels of a class that are kept in the first round.
        portion_step: added to it after a round.
        portion_max: see above.
        source_portion: of the source images, in the first round.
        source_portion_step: added to it after a round.
        source_portion_max: see above.
        source_policy: `cumulative`, a growing set, or `random`, a set per round.
        source_seed: of the cumulative set; the random ones have the round's index.
        learning_rate: of the first round.
        rate_factor: of the learning rate, from round to round.
        batch_size: images per step.
        epochs: passes over a round's images.

    Returns:
        One entry of `rounds` each: `num_steps`, `settings` with `selector.portion`,
        `source_portion` and `source_seed`, `optimizer` with `learning_rate`.
    """
    check_choice("source_policy", source_policy, ("cumulative", "random"))
    rounds = []
    for index in range(num_rounds):
        rounds.append(
            _entry(
                portion,
                source_portion,
                source_seed if source_policy == "cumulative" else index,
                steps=(num_source, num_target, batch_size, epochs),
                optimizer={"learning_rate": _printed(learning_rate)},
            )
        )
        learning_rate *= rate_factor
        if portion < portion_max:
            portion += portion_step
        if source_portion < source_portion_max:
            source_portion += source_portion_step
    return rounds


def crst_rounds(
    num_rounds: int = 3,
    *,
    num_source: int,
    num_target: int,
    portion: float = 0.2,
    portion_step: float = 0.05,
    portion_max: float = 0.5,
    source_portion: float = 0.03,
    source_portion_step: float = 0.0025,
    source_portion_max: float = 0.06,
    source_policy: str = "replace",
    source_seed: int = 3,
    batch_size: int = 2,
    epochs: int = EPOCHS,
) -> list[dict[str, Any]]:
    """Rounds of CRST; portions are clamped, the learning rate stays.

    The published command counts a last round that only tests: its 4 rounds are 3 here
    (section 8.2 of the specification).

    Args:
        num_rounds: rounds that train.
        num_source: images of the source; 0 leaves it out (source-free).
        num_target: images of the target.
        portion: of the pixels of a class that are kept in the first round.
        portion_step: added to it after a round.
        portion_max: its greatest value.
        source_portion: of the source images, in the first round.
        source_portion_step: added to it after a round.
        source_portion_max: its greatest value.
        source_policy: `replace`, a set per round, or `cumulative`, a growing set.
        source_seed: of the cumulative set; others count on from the next number.
        batch_size: images per step.
        epochs: passes over a round's images.

    Returns:
        As `cbst_rounds`, without `optimizer`.
    """
    check_choice("source_policy", source_policy, ("cumulative", "replace"))
    rounds = []
    for index in range(num_rounds):
        new = 0 if source_policy == "cumulative" else index + 1
        rounds.append(
            _entry(
                portion,
                source_portion,
                source_seed + new,
                steps=(num_source, num_target, batch_size, epochs),
            )
        )
        portion = min(portion + portion_step, portion_max)
        source_portion = min(source_portion + source_portion_step, source_portion_max)
    return rounds


def _entry(
    portion: float,
    source_portion: float,
    source_seed: int,
    *,
    steps: tuple[int, int, int, int],
    **more: Any,
) -> dict[str, Any]:
    num_source, num_target, batch_size, epochs = steps
    source_portion = _printed(source_portion) if num_source else 0.0
    selected = math.floor(num_source * source_portion)
    return {
        "num_steps": round_steps(
            selected, num_target, batch_size=batch_size, epochs=epochs
        ),
        "settings": {
            "selector": {"portion": _printed(portion)},
            "source_portion": source_portion,
            "source_seed": source_seed,
        },
        **more,
    }


def _printed(value: float) -> float:
    """With 12 digits, as values are passed on in the published code."""
    return float(f"{value:.12g}")
