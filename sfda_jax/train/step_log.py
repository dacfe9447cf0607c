"""What is logged of the steps: means over a few, and the error of a loss that broke."""

import math
import time

import numpy as np

from sfda_jax.errors import TrainingError
from sfda_jax.train.checkpoints import Checkpoints
from sfda_jax.train.loggers import MetricsLog
from sfda_jax.train.memory import memory_gib
from sfda_jax.train.parallel import Parallel
from sfda_jax.train.recipe import Position, Recipe, describe, tick


class StepLog:
    """Metrics of the steps since the last log line, still on the device.

    Every step's loss is looked at before anything is saved, so that the last
    checkpoint is always a good one.
    """

    def __init__(
        self,
        recipe: Recipe,
        parallel: Parallel,
        *,
        log: MetricsLog,
        checkpoints: Checkpoints,
    ):
        self._recipe, self._parallel = recipe, parallel
        self._log, self._checkpoints = log, checkpoints
        self._steps = []
        self._since = time.perf_counter()

    def add(self, position: Position, metrics, batch) -> None:
        """Takes one step's metrics as the compiled step gave them."""
        rows = {name: part.get("index") for name, part in batch.items()}
        images = sum(len(next(iter(part.values()))) for part in batch.values())
        self._steps.append((position, metrics, rows, images))

    def flush(self) -> dict[str, str]:
        """Logs the window's means; returns what the progress bar shows.

        Raises:
            TrainingError: a loss is not finite.
        """
        steps = self._steps
        values = self._parallel.get_metrics([metrics for _, metrics, _, _ in steps])
        for (position, _, rows, _), metrics in zip(steps, values, strict=True):
            if not math.isfinite(metrics["loss"]):
                raise self._not_finite(position, metrics, rows)
        now = time.perf_counter()
        seconds = (now - self._since) / len(steps)
        images = steps[-1][3]
        means = {k: float(np.mean([v[k] for v in values])) for k in values[0]}
        position = steps[-1][0]
        self._log.write(
            tick(self._recipe, position),
            {
                "stage": self._recipe.stages[position.stage].name,
                "round": position.round,
                "step": position.step,
                **means,
                "step_seconds": round(seconds, 4),
                "images_per_second": round(images / seconds, 2),
                "memory_gib": round(memory_gib(), 3),
            },
        )
        self._steps, self._since = [], now
        return {
            "loss": f"{means['loss']:.4g}",
            "s/step": f"{seconds:.3f}",
            "img/s": f"{images / seconds:.1f}",
            "mem": f"{memory_gib():.1f}G",
        }

    def _not_finite(self, position: Position, metrics, rows) -> TrainingError:
        listed = "; ".join(
            f"{name}: {np.asarray(ids).tolist()}"
            for name, ids in rows.items()
            if ids is not None
        )
        latest = self._checkpoints.latest()
        directory = self._checkpoints.directory
        good = "none" if latest is None else directory / str(latest)
        lr = metrics.get("learning_rate", math.nan)
        return TrainingError(
            f"Loss is {float(metrics['loss'])} at {describe(self._recipe, position)} "
            f"(learning rate {float(lr):.3g}); dataset positions of the batch: "
            f"{listed or 'unknown'}. Last good checkpoint: {good}.",
            hint="Lower config.stages.NAME.optimizer.learning_rate and start in a new "
            "--workdir.",
        )
