"""Scores while a run goes on: stage ends, rounds' pseudo-labels, the summary."""

import dataclasses
import functools
import logging
import pathlib
from typing import Any

import jax

from sfda_jax.data.access import DataAccess
from sfda_jax.data.transforms import Evaluate
from sfda_jax.evaluation.evaluator import (
    Result,
    Write,
    evaluate,
    format_table,
    pseudo_label_quality,
)
from sfda_jax.pseudo_labels.store import PseudoLabelStore
from sfda_jax.train.loggers import MetricsLog
from sfda_jax.train.recipe import Position, Recipe, stage_end, tick
from sfda_jax.train.run_dir import write_json
from sfda_jax.types import ModelState

_log = logging.getLogger(__name__)


def score(
    recipe: Recipe,
    state: ModelState,
    source,
    *,
    gamma: float,
    write: Write | None = None,
) -> Result:
    """A network's scores on a labelled split, as the recipe evaluates.

    Args:
        recipe: size, scales and flip.
        state: the network.
        source: the split.
        gamma: the tone curve of the network's method.
        write: given every prediction; see `evaluator.evaluate`.
    """
    settings = recipe.evaluation
    return evaluate(
        recipe.model,
        state.variables,
        source,
        transform=Evaluate(size=settings.size, gamma=gamma),
        batch_size=settings.batch_size,
        classes=recipe.task.classes,
        flip=settings.flip,
        scales=settings.scales,
        align_corners=recipe.model.align_corners,
        devices=jax.local_devices()[:1],  # the same program whatever the device count
        write=write,
    )


def stage_label(recipe: Recipe, index: int) -> str:
    """The name a stage's score has in tables.

    Its method's, `adapted` for the last, its own where a method comes again.
    """
    if index == len(recipe.stages) - 1:
        return "adapted"
    methods = [stage.method_name for stage in recipe.stages]
    again = methods[index] in methods[:index]
    return recipe.stages[index].name if again else methods[index]


def result_path(run_dir: pathlib.Path, recipe: Recipe, index: int) -> pathlib.Path:
    """Where a stage's scores are kept."""
    name = f"{index + 1:02d}-{recipe.stages[index].name}"
    return run_dir / "stages" / name / "evaluation.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scorer:
    """Evaluates networks of a running recipe and keeps what they scored."""

    recipe: Recipe
    run_dir: pathlib.Path
    log: MetricsLog

    def score_start(self, state: ModelState, access: DataAccess) -> None:
        """Scores a given source checkpoint before anything is adapted."""
        path = self.run_dir / "stages" / "00-start" / "evaluation.json"
        if not path.exists():
            self._score(
                path, Position(), state, access=access, network="student", gamma=1.0
            )

    def score_stage(self, index: int, state: ModelState, access: DataAccess) -> None:
        """Scores a stage's final network on the target, and the source where it may."""
        path = result_path(self.run_dir, self.recipe, index)
        if not path.exists():
            stage = self.recipe.stages[index]
            end = stage_end(self.recipe, index)
            self._score(
                path,
                end,
                state,
                access=access,
                network=stage.network,
                gamma=stage.method.gamma,
            )

    def score_now(self, position: Position, state: ModelState, access: DataAccess):
        """Scores in the middle of a stage, for the curves and `oracle_best`."""
        gamma = self.recipe.stages[position.stage].method.gamma
        result = score(self.recipe, state, access.eval("target"), gamma=gamma)
        network = self.recipe.stages[position.stage].network
        self._write(position, result, network, self.recipe.task.target.eval)

    def score_pseudo_labels(
        self, store: PseudoLabelStore, position: Position, access: DataAccess
    ) -> None:
        """Logs coverage, and accuracy where the training labels are at hand."""
        if not store.complete() or position.step:
            return
        source = access.target_train_report()
        classes = self.recipe.task.classes
        quality = pseudo_label_quality(store, "candidates", source, classes)
        stage = self.recipe.stages[position.stage].name
        self.log.write(
            tick(self.recipe, position),
            {
                "event": "pseudo_labels",
                "stage": stage,
                "round": position.round,
                "step": position.step,
                **quality.as_record(classes),
            },
        )

    def _score(self, path, position, state, *, access, network, gamma) -> None:
        task = self.recipe.task
        score_on = functools.partial(score, self.recipe, state)
        results = {"target": score_on(access.eval("target"), gamma=gamma)}
        source = task.source
        if source is not None and source.eval and not access.source_closed:
            results["source"] = score_on(access.eval("source"), gamma=1.0)
        record: dict[str, Any] = {"network": network}
        for domain, result in results.items():
            split = getattr(task, domain).eval
            self._write(position, result, network, split)
            title = f"{self.recipe.stages[position.stage].name}: {network}"
            _log.info("%s", format_table(result, network=title, split=split))
            record[domain] = {
                "split": split,
                **result.scores.as_record(task.classes),
                "confusion": result.confusion.tolist(),
            }
        record["wall"] = self.log.wall
        write_json(path, record)

    def _write(self, position, result: Result, network: str, split: str) -> None:
        self.log.write(
            tick(self.recipe, position),
            {
                "event": "eval",
                "stage": self.recipe.stages[position.stage].name,
                "round": position.round,
                "step": position.step,
                "network": network,
                "split": split,
                **result.scores.as_record(self.recipe.task.classes),
            },
        )
