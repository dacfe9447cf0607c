"""Scores while a run goes on: stage ends, rounds' pseudo-labels, the summary."""

import dataclasses
import logging
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from PIL import Image

from sfda_jax.data.access import DataAccess
from sfda_jax.evaluation.evaluator import (
    Result,
    Write,
    evaluate,
    format_table,
    pseudo_label_quality,
)
from sfda_jax.pseudo_labels.store import PseudoLabelStore
from sfda_jax.report.html import ROUND_PANEL
from sfda_jax.report.panels import CHANGES, compose_panel, label_changes
from sfda_jax.tasks import ClassSpace
from sfda_jax.train.domains import (
    START,
    ScoredSplit,
    is_continual,
    place,
    scored_splits,
    split_titles,
)
from sfda_jax.train.loggers import MetricsLog
from sfda_jax.train.recipe import Position, Recipe, stage_end, tick
from sfda_jax.train.round_context import round_dir, round_store
from sfda_jax.train.run_dir import write_json
from sfda_jax.types import ModelState, RandomAccess

_log = logging.getLogger(__name__)

_ROUND_ROWS = 3


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
        recipe: its evaluation settings and classes.
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
        transform=settings.transform(gamma),
        batch_size=settings.batch_size,
        classes=recipe.task.classes,
        views=settings.views(recipe.model),
        absent_classes=settings.absent_classes,
        devices=jax.local_devices()[:1],  # the same program whatever the device count
        write=write,
    )


def stage_label(recipe: Recipe, index: int) -> str:
    """The name a stage's score has in tables.

    Its method's, `adapted` for the last, its own where its method comes more than
    once. In a continual run its own, but for the first that trains on the source.
    """
    if index == len(recipe.stages) - 1:
        return "adapted"
    methods = [stage.method_name for stage in recipe.stages]
    again = methods.count(methods[index]) > 1
    if is_continual(recipe):
        again = again or not recipe.stages[index].trains_on_source
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
            splits = self._splits(START, access)
            self._score(
                path, Position(), state, access=access, network="student", splits=splits
            )

    def score_stage(self, index: int, state: ModelState, access: DataAccess) -> None:
        """Scores a stage's final network on what `domains.scored_splits` says."""
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
                splits=self._splits(index, access),
            )

    def score_now(self, position: Position, state: ModelState, access: DataAccess):
        """Scores in the middle of a stage, for the curves and `oracle_best`."""
        gamma = self.recipe.stages[position.stage].method.gamma
        result = score(self.recipe, state, access.eval("target"), gamma=gamma)
        network = self.recipe.stages[position.stage].network
        titles = split_titles(self.recipe)
        self._write(position, result, network, titles[place(access.task.target)])

    def score_pseudo_labels(
        self, store: PseudoLabelStore, position: Position, access: DataAccess
    ) -> None:
        """Logs a round's coverage, thresholds, accuracy where labels are at hand.

        Also draws some of its maps. Nothing happens where a round has none, or has
        begun before.
        """
        stage = self.recipe.stages[position.stage]
        name = stage.at_round(position.round)[0].label_maps
        if position.step or not store.ids(name):
            return
        source, classes = access.target_train_report(), self.recipe.task.classes
        labels = access.target_train_report(pictured=False)
        quality = pseudo_label_quality(store, name, labels, classes)
        self.log.write(
            tick(self.recipe, position),
            {
                "event": "pseudo_labels",
                "stage": stage.name,
                "round": position.round,
                "step": position.step,
                **quality.as_record(classes),
                "thresholds": _by_class(store.meta.get("thresholds"), classes),
            },
        )
        if jax.process_index() == 0:
            self._draw_round(store, name, position, source)

    def _draw_round(
        self, store: PseudoLabelStore, name: str, position: Position, source
    ) -> None:
        """`panels.png` of the round: image, truth, pseudo-label, what has changed."""
        previous = None
        if position.round:
            stage, last = position.stage, position.round - 1
            previous = round_store(self.run_dir, self.recipe, stage, last)
        rows = []
        count = min(_ROUND_ROWS, self.recipe.evaluation.panels)
        for index in shown_examples(source, count):
            record = source[index]
            row = {"id": record["id"], "image": record["image"]}
            if "label" in record:
                row["ground_truth"] = record["label"]
            row["pseudo_label"] = store.read(name, record["id"])
            if previous is not None and previous.ids(name):
                before = previous.read(name, record["id"])
                row["changes"] = label_changes(row["pseudo_label"], before)
            rows.append(row)
        if not rows:
            return
        panel = compose_panel(
            rows,
            self.recipe.task.classes,
            per_line=4,
            cell_width=320,
            notes=CHANGES if "changes" in rows[0] else {},
        )
        where = (self.run_dir, self.recipe, position.stage, position.round)
        path = round_dir(*where) / ROUND_PANEL
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(panel).save(path)

    def _splits(self, index: int, access: DataAccess) -> dict[str, ScoredSplit]:
        opened = not access.source_closed
        return scored_splits(self.recipe, index, source_open=opened)

    def _score(self, path, position, state, *, access, network, splits) -> None:
        record: dict[str, Any] = {"network": network}
        for name, split in splits.items():
            labelled = access.with_target(split.side).eval("target")
            result = score(self.recipe, state, labelled, gamma=split.gamma)
            self._write(position, result, network, split.title)
            title = f"{self.recipe.stages[position.stage].name}: {network}"
            _log.info("%s", format_table(result, network=title, split=split.title))
            table = {
                "split": split.title,
                **result.scores.as_record(self.recipe.task.classes),
                "confusion": result.confusion.tolist(),
            }
            if name in ("target", "source"):
                record[name] = table
            else:
                record.setdefault("others", {})[name] = table
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


def shown_examples(source: RandomAccess, count: int) -> list[int]:
    """Positions of `count` examples at most, evenly over a split."""
    count = min(count, len(source))
    return np.linspace(0, len(source) - 1, count).astype(int).tolist()


def _by_class(
    values: Sequence[float] | None, classes: ClassSpace
) -> dict[str, float] | None:
    if values is None:
        return None
    return dict(zip(classes.names, values, strict=True))
