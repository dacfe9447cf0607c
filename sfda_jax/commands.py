"""What the commands do; each is a plain function for use from Python too."""

import argparse
import collections
import dataclasses
import logging
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from absl import flags as absl_flags
from ml_collections import ConfigDict

from sfda_jax import config as configs
from sfda_jax.errors import CheckpointError, ConfigError
from sfda_jax.evaluation.evaluator import Result, format_table
from sfda_jax.evaluation.folder import predict_folder
from sfda_jax.registry import check_choice
from sfda_jax.report.html import build_report
from sfda_jax.train import bench as benchmarks
from sfda_jax.train import dry_run, loop, run_dir, scoring, summary
from sfda_jax.train.recipe import Recipe
from sfda_jax.train.states import load_network, save_network
from sfda_jax.types import IGNORE, ModelState

_log = logging.getLogger(__name__)


def adapt(config: ConfigDict, workdir: str, *, command: str = "") -> dict[str, Any]:
    """The summary of a finished run; trains, or goes on where `workdir` stands.

    Args:
        config: from `load_config`.
        workdir: the run directory: config, checkpoints, logs, scores, report.html.
        command: kept in the run directory for later readers.

    Raises:
        SfdaError: anything a user can mend, with what to do.
    """
    folder = pathlib.Path(workdir)
    recipe = configs.build(config)
    prepare_jax(recipe)
    run_dir.claim(folder, config.to_dict(), command)
    loop.adapt(recipe, folder)
    found = summary.write_summary(recipe, folder)
    summary.write_panels(recipe, folder, loop.make_access(recipe))
    build_report(folder)
    return found


def evaluate(
    config: ConfigDict,
    workdir: str,
    *,
    stage: str = "",
    checkpoint: str = "",
    split: str = "",
) -> Result:
    """Scores of a stage's network, or of a published checkpoint, on the target.

    Args:
        config: from `load_config` or `from_json`.
        workdir: the run directory.
        stage: whose network; empty for the last.
        checkpoint: a PyTorch file or converted folder instead of a run.
        split: a labelled split of the target; empty for the task's.
    """
    recipe = configs.build(config)
    prepare_jax(recipe)
    state = _network(recipe, workdir, stage=stage, checkpoint=checkpoint)
    access = loop.make_access(_with_split(recipe, split))
    source = access.eval("target")
    return scoring.score(recipe, state, source, gamma=_gamma(recipe, stage))


def predict(
    config: ConfigDict,
    workdir: str,
    *,
    images: str,
    out: str,
    stage: str = "",
    checkpoint: str = "",
) -> int:
    """How many images of a folder were written as train ids, colours and overlays."""
    recipe = configs.build(config)
    prepare_jax(recipe)
    state = _network(recipe, workdir, stage=stage, checkpoint=checkpoint)
    settings = recipe.evaluation
    return predict_folder(
        recipe.model,
        state.variables,
        pathlib.Path(images),
        pathlib.Path(out),
        size=settings.size,
        classes=recipe.task.classes,
        scales=settings.scales,
        flip=settings.flip,
        gamma=_gamma(recipe, stage),
    )


def convert(
    config: ConfigDict, workdir: str, *, out: str, stage: str = "", checkpoint: str = ""
) -> str:
    """Writes a network as `out`: a published PyTorch file (.pth) or an Orbax folder.

    The network is a stage's of a run, or `checkpoint`'s (PyTorch file or Orbax folder).
    """
    recipe = configs.build(config)
    state = _network(recipe, workdir, stage=stage, checkpoint=checkpoint)
    save_network(recipe, state, pathlib.Path(out))
    return out


def check(config: ConfigDict) -> str:
    """A text on the recipe's datasets: counts, and the classes their labels hold.

    Raises:
        SfdaError: the first fault found, with what to do.
    """
    recipe = configs.build(config)
    access = loop.make_access(recipe)
    lines = [dry_run.plan(recipe)]
    for domain in ("source", "target"):
        side = getattr(recipe.task, domain)
        if side is not None and side.eval:
            lines.append(_class_shares(recipe, side, access.eval(domain)))
    return "\n".join(lines)


def bench(config: ConfigDict, *, steps: int = 10) -> list[dict[str, Any]]:
    """Timings per stage on generated data; see `train.bench`."""
    recipe = configs.build(config)
    prepare_jax(recipe)
    return benchmarks.bench(recipe, num_steps=steps)


def prepare_jax(recipe: Recipe) -> None:
    """Applies the recipe's process-wide JAX settings."""
    if not absl_flags.FLAGS.is_parsed():  # Grain's worker processes read absl flags
        absl_flags.FLAGS.mark_as_parsed()
    settings = recipe.parallel
    if settings.matmul_precision:
        jax.config.update("jax_default_matmul_precision", settings.matmul_precision)
    if settings.compilation_cache:
        folder = os.path.expanduser(settings.compilation_cache)
        jax.config.update("jax_compilation_cache_dir", folder)


def run(flags: argparse.Namespace, overrides: Mapping[str, str], command: str) -> str:
    """What one command line prints; the flags are `main.parse`'s."""
    config = _config(flags, overrides)
    workdir = flags.workdir or f"runs/{config.name}"
    stage = {k: getattr(flags, k) for k in ("stage", "checkpoint") if k in flags}
    match flags.verb:
        case "adapt" if flags.dry_run:
            recipe = configs.build(config)
            prepare_jax(recipe)
            text = dry_run.plan(recipe)
            _log.info("%s", text)
            return benchmarks.format_rows(dry_run.compile_report(recipe))
        case "adapt":
            found = adapt(config, workdir, command=command)
            report = pathlib.Path(workdir) / "report.html"
            return f"{summary.format_summary(found)}\n{'report':<14}{report}"
        case "evaluate":
            result = evaluate(config, workdir, split=flags.split, **stage)
            last = config.stages[flags.stage or config.pipeline[-1]].network
            split = flags.split or config.task.target.eval
            return format_table(result, network=last, split=split)
        case "predict":
            count = predict(
                config, workdir, images=flags.images, out=flags.out, **stage
            )
            return f"{count} images written to {flags.out}"
        case "convert":
            return f"written: {convert(config, workdir, out=flags.out, **stage)}"
        case "check":
            return check(config)
    rows = bench(config, steps=flags.steps)
    if flags.json:
        run_dir.write_json(pathlib.Path(flags.json), rows)
    return benchmarks.format_rows(rows)


def _config(flags: argparse.Namespace, overrides: Mapping[str, str]) -> ConfigDict:
    """The recipe named, or the one a run directory was made with."""
    if flags.config:
        return configs.load_config(flags.config, overrides)
    if flags.workdir:
        path = pathlib.Path(flags.workdir) / "config.json"
        return configs.from_json(path, overrides)
    raise ConfigError(
        "Which recipe?", hint="python -m sfda_jax.main --config configs/demo.py"
    )


def _network(
    recipe: Recipe, workdir: str, *, stage: str, checkpoint: str
) -> ModelState:
    if checkpoint:
        return load_network(recipe, checkpoint)
    index = _stage_index(recipe, stage)
    folder = pathlib.Path(workdir)
    if not (folder / "checkpoints").is_dir():
        raise CheckpointError(
            f"{folder} holds no run.", hint=f"Run it first: --workdir={folder}"
        )
    return loop.stage_network(recipe, folder, index)


def _stage_index(recipe: Recipe, name: str) -> int:
    """Position of a stage, the last one where none is named."""
    names = [s.name for s in recipe.stages]
    if name:
        check_choice("--stage", name, names)
    return names.index(name or names[-1])


def _gamma(recipe: Recipe, stage: str) -> float:
    return recipe.stages[_stage_index(recipe, stage)].method.gamma


def _with_split(recipe: Recipe, split: str) -> Recipe:
    if not split:
        return recipe
    target = dataclasses.replace(recipe.task.target, eval=split)
    task = dataclasses.replace(recipe.task, target=target)
    return dataclasses.replace(recipe, task=task)


def _class_shares(recipe: Recipe, side, source) -> str:
    """Pixel share of each class in a labelled split, absent classes named."""
    counts = collections.Counter()
    for index in range(len(source)):
        values, numbers = np.unique(source[index]["label"], return_counts=True)
        counts.update(dict(zip(values.tolist(), numbers.tolist(), strict=True)))
    total = max(sum(counts.values()), 1)
    shares = [
        f"{name} {100 * counts[i] / total:.2f} %" if counts[i] else f"{name} ABSENT"
        for i, name in enumerate(recipe.task.classes.names)
    ]
    ignored = f"ignored {100 * counts[IGNORE] / total:.2f} %"
    return f"  {side.dataset} {side.eval}: {', '.join([*shares, ignored])}"
