"""Speed and memory of a recipe's steps and input pipeline, on generated data."""

import dataclasses
import pathlib
import resource
import statistics
import tempfile
import time
from typing import Any

import jax

from sfda_jax.train.dry_run import Trial, start_trial
from sfda_jax.train.parallel import make_parallel
from sfda_jax.train.recipe import Recipe
from sfda_jax.train.states import init_network


def bench(recipe: Recipe, *, num_steps: int = 10) -> list[dict[str, Any]]:
    """One row per stage with steps.

    Args:
        recipe: any; its datasets are replaced by procedural images.
        num_steps: timed steps (after one that is not).

    Returns:
        Rows of: stage, batch, compile_seconds, step_median, step_min, step_max
        (seconds), images_per_second, host_peak_gib, device_peak_gib (where the device
        tells), temporary_gib (as the compiler counts it).
    """
    data = dataclasses.replace(recipe.data, generated=True)
    recipe = dataclasses.replace(recipe, data=data)
    parallel = make_parallel(recipe.parallel.mode, recipe.parallel.devices)
    student = init_network(recipe)
    rows = []
    for index, stage in enumerate(recipe.stages):
        if not stage.rounds[0].num_steps:
            continue
        with tempfile.TemporaryDirectory() as folder:
            trial = start_trial(
                recipe,
                index,
                parallel=parallel,
                student=student,
                folder=pathlib.Path(folder),
                input_batches=num_steps,
            )
            seconds = _time_steps(trial, num_steps)
        median = statistics.median(seconds)
        rows.append(
            {
                "stage": stage.name,
                "batch": trial.images,
                "devices": parallel.num_devices,
                "compile_seconds": round(trial.compile_seconds, 2),
                "step_median": round(median, 4),
                "step_min": round(min(seconds), 4),
                "step_max": round(max(seconds), 4),
                "images_per_second": round(trial.images / median, 2),
                "input_images_per_second": round(trial.input_rate, 2),
                "host_peak_gib": _host_peak_gib(),
                **_device_peak(),
                **trial.memory(),
            }
        )
    return rows


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


def _host_peak_gib() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3)


def _device_peak() -> dict[str, float]:
    stats = jax.local_devices()[0].memory_stats() or {}
    peak = stats.get("peak_bytes_in_use")
    return {} if peak is None else {"device_peak_gib": round(peak / 2**30, 3)}
