"""Speed and memory of a recipe's steps and input pipeline, on generated data."""

import dataclasses
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from sfda_jax.registry import check_choice
from sfda_jax.train.dry_run import Trial, start_trial
from sfda_jax.train.memory import device_peak, host_peak_gib
from sfda_jax.train.parallel import make_parallel
from sfda_jax.train.recipe import Recipe
from sfda_jax.train.states import init_network


def bench(
    recipe: Recipe, *, num_steps: int = 10, stage: str = ""
) -> list[dict[str, Any]]:
    """One row per stage with steps.

    Args:
        recipe: any; its datasets are replaced by procedural images.
        num_steps: timed steps (after one that is not).
        stage: the only one to time; empty for all.

    Returns:
        Rows of: stage, batch, compile_seconds, step_median, step_min, step_max
        (seconds), images_per_second, host_peak_gib, device_peak_gib (where the device
        tells), temporary_gib (as the compiler counts it).

    Raises:
        ConfigError: unknown stage.
    """
    names = [entry.name for entry in recipe.stages]
    if stage:
        check_choice("--stage", stage, names)
    data = dataclasses.replace(recipe.data, generated=True)
    recipe = dataclasses.replace(recipe, data=data)
    parallel = make_parallel(recipe.parallel.mode, recipe.parallel.devices)
    student = init_network(recipe)
    rows = []
    for index, entry in enumerate(recipe.stages):
        if not entry.rounds[0].num_steps or stage not in ("", entry.name):
            continue
        with start_trial(
            recipe,
            index,
            parallel=parallel,
            student=student,
            input_batches=num_steps,
        ) as trial:
            seconds = _time_steps(trial, num_steps)
        median = statistics.median(seconds)
        rows.append(
            {
                "stage": entry.name,
                "batch": trial.images,
                "devices": parallel.num_devices,
                "compile_seconds": round(trial.compile_seconds, 2),
                "step_median": round(median, 4),
                "step_min": round(min(seconds), 4),
                "step_max": round(max(seconds), 4),
                "images_per_second": round(trial.images / median, 2),
                "input_images_per_second": round(trial.input_rate, 2),
                "host_peak_gib": host_peak_gib(),
                **device_peak(),
                **trial.memory(),
            }
        )
    return rows


def compared(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows with `relative`: their median step over the first one's."""
    first = rows[0]["step_median"] if rows else 0.0
    return [{**row, "relative": round(row["step_median"] / first, 3)} for row in rows]


def format_rows(rows: list[dict[str, Any]]) -> str:
    """The rows as a text table."""
    if not rows:
        return "This recipe has no training steps."
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [names] + [[str(row.get(name, "-")) for name in names] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    return "\n".join(
        "  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True))
        for line in cells
    )


def _time_steps(trial: Trial, count: int) -> list[float]:
    state, _ = trial.step(trial.state, trial.batch, trial.key)
    jax.block_until_ready(state)
    seconds = []
    for _ in range(count):
        started = time.perf_counter()
        state, _ = trial.step(state, trial.batch, trial.key)
        jax.block_until_ready(state)
        seconds.append(time.perf_counter() - started)
    return seconds
