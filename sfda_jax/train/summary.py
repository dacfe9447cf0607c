"""What a finished run leaves: summary.json, panels, and the table it prints."""

import json
import math
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from sfda_jax.data.access import DataAccess
from sfda_jax.evaluation.evaluator import network_logits
from sfda_jax.evaluation.predictor import merge_views
from sfda_jax.pseudo_labels.store import PseudoLabelStore
from sfda_jax.report.panels import compose_panel
from sfda_jax.tasks import Domain
from sfda_jax.train import recipe as recipes
from sfda_jax.train.continual import continual_record, format_continual, scored_tables
from sfda_jax.train.domains import is_continual, place, split_titles
from sfda_jax.train.health_record import format_health, health_record
from sfda_jax.train.origins import stage_network
from sfda_jax.train.recipe import Recipe
from sfda_jax.train.round_context import round_store
from sfda_jax.train.run_dir import versions, write_json
from sfda_jax.train.scoring import result_path, shown_examples, stage_label
from sfda_jax.train.states import load_network
from sfda_jax.types import ModelState
from sfda_jax.weights.layout import abstract_state


def write_summary(recipe: Recipe, run_dir: pathlib.Path) -> dict[str, Any]:
    """The run's figures, in percent, from the scores its stages left; also written."""
    records = _stage_records(recipe, run_dir)
    start = _start_record(run_dir)
    stages = {} if start is None else {"source_only": start}
    for index, record in enumerate(records):
        last = index == len(records) - 1
        if last or recipe.stages[index].method.changes_network:
            stages[stage_label(recipe, index)] = record
    tables = {label: scored_tables(record) for label, record in stages.items()}
    titles, task = split_titles(recipe), recipe.task
    # Of a continual run: the domain that was adapted to last.
    split = titles[place(recipe.stages[-1].task.target)]
    targets = {label: t[split] for label, t in tables.items() if split in t}
    headline = recipe.task.headline
    scores = {label: t["mIoU"][headline] for label, t in targets.items()}
    if recipe.evaluation.oracle:
        scores["oracle_best"] = _best_on_target(recipe, run_dir, scores["adapted"])
    source_split = titles[place(task.source)] if _is_scored(task.source) else None
    shapes = abstract_state(recipe.model)
    summary = {
        "name": recipe.name,
        "task": task.name,
        "source": f"{task.source.dataset} {task.source.train}" if task.source else None,
        "target": " → ".join(_targets(recipe)),
        "target_split": split,
        "lists": _lists(run_dir),
        "subset": headline,
        "network": recipe.stages[-1].network,
        "seed": recipe.seed,
        "target_mIoU": scores,
        "source_val_mIoU": {
            label: t[source_split]["mIoU"][headline]
            for label, t in tables.items()
            if source_split in t
        },
        "subsets": {label: t["mIoU"] for label, t in targets.items()},
        "per_class": {label: t["iou"] for label, t in targets.items()},
        **(_dice(targets) if task.classes.dice else {}),
        "seconds": _seconds(stages),
        "num_parameters": sum(x.size for x in jax.tree.leaves(shapes.params)),
        "steps": {
            stage.name: sum(entry.num_steps for entry in stage.rounds)
            for stage in recipe.stages
        },
        "command": (run_dir / "command.txt").read_text(encoding="utf-8").strip(),
        "versions": versions(),
    }
    if is_continual(recipe):
        summary["continual"] = continual_record(recipe, records, start)
    if (health := health_record(run_dir)) is not None:
        summary["health"] = health
    write_json(run_dir / "summary.json", summary)
    return summary


def _dice(targets: dict[str, Any]) -> dict[str, Any]:
    """What the report shows beside IoU, by score label."""
    entries = {"dice": "dice", "mean_dice": "mDice", "image_means": "image_means"}
    return {
        name: {label: t[key] for label, t in targets.items() if key in t}
        for name, key in entries.items()
    }


def format_summary(summary: dict[str, Any]) -> str:
    """The table printed when a run ends."""
    title = (
        f"{summary['task']}: {summary['subset']} on {summary['target_split']}, "
        f"{summary['network']}, seed {summary['seed']}"
    )
    lines = [title, "-" * len(title)]
    first = next(iter(summary["target_mIoU"].values()))
    for label, value in summary["target_mIoU"].items():
        note = "  (chosen on target labels)" if label == "oracle_best" else ""
        gain = f"{value - first:+7.2f}" if value is not None and value != first else ""
        lines.append(f"{label:<14}{_percent(value):>8}{gain:>9}{note}")
    if "continual" in summary:
        table = format_continual(summary["continual"], summary["subset"])
        lines += ["", table, ""]
    if "health" in summary:
        lines += format_health(summary["health"])
    total = sum(summary["seconds"].values())
    lines.append(f"{'time':<14}{total / 60:7.1f} min")
    return "\n".join(lines)


def write_panels(
    recipe: Recipe, run_dir: pathlib.Path, access: DataAccess
) -> list[pathlib.Path]:
    """Pictures of target images: before, after, last pseudo-label, confidence."""
    source = access.target_train_report()
    before = _first_network(recipe, run_dir)
    after = stage_network(recipe, run_dir, len(recipe.stages) - 1)
    gamma = recipe.stages[-1].method.gamma
    last = _last_labels(recipe, run_dir)
    paths = []
    chosen = shown_examples(source, recipe.evaluation.panels)
    for number, index in enumerate(chosen):
        record = source[index]
        after_ids, confidence = _predict(recipe, after, record, gamma=gamma)
        row = {
            "id": record["id"],
            "image": record["image"],
            "before": _predict(recipe, before, record, gamma=1.0)[0],
            "after": after_ids,
            "confidence": confidence,
        }
        if "label" in record:
            row["ground_truth"] = record["label"]
        if last is not None:
            store, name = last
            row["pseudo_label"] = store.read(name, record["id"])
        panel = compose_panel([row], recipe.task.classes)
        path = run_dir / "panels" / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(panel).save(path)
        paths.append(path)
    return paths


def _lists(run_dir: pathlib.Path) -> dict[str, Any]:
    """Domain → which training examples were used, as the run began."""
    text = (run_dir / "environment.json").read_text(encoding="utf-8")
    return json.loads(text)["lists"]


def _stage_records(recipe: Recipe, run_dir: pathlib.Path) -> list[dict[str, Any]]:
    """What each stage's evaluation left."""
    paths = [result_path(run_dir, recipe, i) for i in range(len(recipe.stages))]
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def _start_record(run_dir: pathlib.Path) -> dict[str, Any] | None:
    """What the evaluation of the network that the run was given left, if it was."""
    path = run_dir / "stages" / "00-start" / "evaluation.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _is_scored(side: Domain | None) -> bool:
    return side is not None and bool(side.eval)


def _targets(recipe: Recipe) -> list[str]:
    """The domains adapted to, one after the other; of an ordinary run the only one."""
    found: list[str] = []
    for stage in recipe.stages:
        target = f"{stage.task.target.dataset} {stage.task.target.train}"
        if found[-1:] != [target]:
            found.append(target)
    return found


def _seconds(stages: dict[str, Any]) -> dict[str, float]:
    found, before = {}, 0.0
    for label, record in stages.items():
        found[label] = round(record["wall"] - before, 1)
        before = record["wall"]
    return found


def _best_on_target(
    recipe: Recipe, run_dir: pathlib.Path, final: float | None
) -> float | None:
    """The best target score of the last stage: an oracle, it reads target labels."""
    last = recipe.stages[-1]
    split = split_titles(recipe)[place(last.task.target)]
    best = [] if final is None else [final]
    for line in (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        where = (entry.get("event"), entry.get("stage"), entry.get("split"))
        if where == ("eval", last.name, split):
            value = entry["mIoU"][recipe.task.headline]
            best += [] if value is None else [value]
    return max(best, default=None)


def _first_network(recipe: Recipe, run_dir: pathlib.Path) -> ModelState:
    """The network before any adaptation."""
    first = recipe.stages[0]
    changes = [stage.method.changes_network for stage in recipe.stages]
    trained = first.trains_on_source and changes[0]
    if trained or first.init_from in ("previous", "scratch"):
        index = changes.index(True) if any(changes) else 0
        return stage_network(recipe, run_dir, index)
    return load_network(recipe, first.init_from)


def _last_labels(
    recipe: Recipe, run_dir: pathlib.Path
) -> tuple[PseudoLabelStore, str] | None:
    """The newest finished label maps of the last stage's target, and their name."""
    target = recipe.stages[-1].task.target
    for index in reversed(range(len(recipe.stages))):
        if recipe.stages[index].task.target != target:
            continue
        last = recipes.stage_end(recipe, index).round
        store = round_store(run_dir, recipe, index, last)
        name = recipe.stages[index].at_round(last)[0].label_maps
        if store.ids(name) and store.complete():
            return store, name
    return None


def _predict(recipe: Recipe, state: ModelState, record, *, gamma: float):
    """Train ids and confidence of one image at its own size."""
    settings = recipe.evaluation
    transform, views = settings.transform(gamma), settings.views(recipe.model)
    images = transform(record, np.random.default_rng(0))["images"]
    logits = network_logits(recipe.model, state.variables, images[None], views)
    probs = merge_views(
        logits, record["image"].shape[:2], views, input_size=images.shape[:2]
    )[0]
    ids = np.asarray(jnp.argmax(probs, -1)).astype(np.uint8)
    return ids, np.asarray(probs.max(-1), np.float32)


def _percent(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.2f}"
