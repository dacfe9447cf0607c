"""What the commands do; each is a plain function for use from Python too."""

import argparse
import dataclasses
import logging
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from absl import flags as absl_flags
from ml_collections import ConfigDict

from sfda_jax import checking
from sfda_jax import config as configs
from sfda_jax.errors import CheckpointError, ConfigError
from sfda_jax.evaluation.evaluator import Result, format_table
from sfda_jax.evaluation.folder import predict_folder
from sfda_jax.evaluation.submission import SubmissionWriter
from sfda_jax.registry import check_choice
from sfda_jax.report.html import build_report
from sfda_jax.train import bench as benchmarks
from sfda_jax.train import (
    dry_run,
    input_bench,
    loop,
    origins,
    run_dir,
    scoring,
    summary,
)
from sfda_jax.train.mixture_bench import bench_mixtures
from sfda_jax.train.network_bench import bench_networks
from sfda_jax.train.recipe import Recipe
from sfda_jax.train.states import load_network, read_network
from sfda_jax.train.threshold_bench import bench_thresholds
from sfda_jax.types import ModelState
from sfda_jax.weights.checkpoint_file import FILE_SUFFIXES
from sfda_jax.weights.convert import Filled, write_network
from sfda_jax.weights.export import write_export
from sfda_jax.weights.verify import verify_source, verify_written
from sfda_jax.weights.zoo import format_models, list_models, open_model

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
    access = loop.make_access(recipe).with_target(recipe.stages[-1].task.target)
    summary.write_panels(recipe, folder, access)
    build_report(folder)
    return found


def evaluate(
    config: ConfigDict,
    workdir: str,
    *,
    stage: str = "",
    checkpoint: str = "",
    split: str = "",
    submission: str = "",
) -> Result:
    """Scores of a stage's network, or of a published checkpoint, on its target.

    Args:
        config: from `load_config` or `from_json`.
        workdir: the run directory.
        stage: whose network; empty for the last.
        checkpoint: a PyTorch file or converted folder instead of a run.
        split: a labelled split of the target; empty for the stage's.
        submission: folder for the predictions, as the Cityscapes benchmark wants
            them; then the split may be one without labels, whose scores are NaN.
    """
    recipe = configs.build(config)
    prepare_jax(recipe)
    target, write = recipe.stages[_stage_index(recipe, stage)].task.target, None
    target = dataclasses.replace(target, eval=split or target.eval)
    access = loop.make_access(recipe).with_target(target)
    if submission:
        write = SubmissionWriter(
            pathlib.Path(submission), target.dataset, target.eval, recipe.task.classes
        )
    source = access.submission("target") if write else access.eval("target")
    state = _network(recipe, workdir, stage=stage, checkpoint=checkpoint)
    gamma = _gamma(recipe, stage)
    return scoring.score(recipe, state, source, gamma=gamma, write=write)


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
        transform=settings.transform(_gamma(recipe, stage)),
        classes=recipe.task.classes,
        views=settings.views(recipe.model),
    )


def convert(
    config: ConfigDict | None,
    workdir: str,
    *,
    out: str,
    stage: str = "",
    checkpoint: str = "",
    layout: str = "",
    entry: str = "",
    waive: Sequence[str] = (),
    verify: bool = False,
) -> str:
    """Writes a network under its published names or as an Orbax folder; a report.

    Args:
        config: whose network it is; None to learn it from `checkpoint` alone.
        workdir: the run directory, where no `checkpoint` is given.
        out: `.pth`, `.safetensors` or `.params` file, anything else is a folder.
        stage: whose network; empty for the last.
        checkpoint: a file of any known format, or a converted folder.
        layout: of the published file: the one written, or else the one read; `ours`
            writes our own names.
        entry: the part of `checkpoint` to read where it holds several networks.
        waive: shell patterns of names that may differ or hold NaN.
        verify: compare bits both ways, and with PyTorch's output where it can be.

    Raises:
        SfdaError: the file does not fit, or the verification fails.
    """
    target = pathlib.Path(out)
    written = layout if target.suffix in FILE_SUFFIXES else ""
    choice = {"layout": "" if written else layout, "entry": entry, "waive": waive}
    lines = []
    if checkpoint:
        filled = _open(config, checkpoint, **choice)
        model, state = filled.model, filled.state
        lines.append(filled.report.format())
        if verify:
            lines += verify_source(filled)
    else:
        recipe = configs.build(config)
        model = recipe.model
        state = _network(recipe, workdir, stage=stage, checkpoint="")
    write_network(target, state, model, layout=written, waive=waive)
    lines.append(f"written: {out}")
    if verify:
        lines.append(verify_written(target, state, model))
    return "\n".join(lines)


def export(
    config: ConfigDict | None,
    workdir: str,
    *,
    out: str,
    format: str = "stablehlo",
    stage: str = "",
    checkpoint: str = "",
    size: Sequence[int] | None = None,
    batch: int = 0,
) -> str:
    """Writes a network as one file that runs without this package; a report.

    Args:
        config: whose network it is; None to learn it from `checkpoint` alone.
        workdir: the run directory, where no `checkpoint` is given.
        out: folder for the file and its description.
        format: `stablehlo` or `onnx`.
        stage: whose network; empty for the last.
        checkpoint: a file or folder instead of a run.
        size: height and width of the images; the recipe's by default.
        batch: images per call; 0 for any number.

    Raises:
        SfdaError: no size is known, or the exported file computes something else.
    """
    recipe = None if config is None else configs.build(config)
    if size is None and recipe is not None and len(recipe.evaluation.size) == 2:
        size = recipe.evaluation.size
    if size is None:
        raise ConfigError(
            "The size of the images is not known.", hint="Give --size HEIGHT WIDTH."
        )
    if checkpoint:
        filled = _open(config, checkpoint)
        model, state = filled.model, filled.state
    else:
        model = recipe.model
        state = _network(recipe, workdir, stage=stage, checkpoint="")
    return write_export(
        pathlib.Path(out),
        model,
        state,
        format=format,
        size=tuple(size),
        batch=batch,
        classes=None if recipe is None else recipe.task.classes,
    )


def bench(
    config: ConfigDict, *, steps: int = 10, images: int = 0, stage: str = ""
) -> list[dict[str, Any]]:
    """Timings per stage on generated data; see `train.bench`.

    Args:
        config: from `load_config`.
        steps: timed steps per stage.
        images: time the input pipeline on so many files instead of the steps; see
            `train.input_bench`.
        stage: time its steps alone; empty for all stages.
    """
    recipe = configs.build(config)
    prepare_jax(recipe)
    if images:
        return input_bench.bench_input(recipe, images=images)
    return benchmarks.bench(recipe, num_steps=steps, stage=stage)


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


def run(
    flags: argparse.Namespace, overrides: Mapping[str, str], command: str
) -> tuple[str, int]:
    """What one command line, parsed by `main.parse`, prints, and its exit status."""
    if flags.verb == "check":
        return checking.run(flags, lambda: _config(flags, overrides))
    return _text(flags, overrides, command), 0


def _text(flags: argparse.Namespace, overrides: Mapping[str, str], command: str) -> str:
    if flags.verb == "models":
        return format_models(list_models())
    if flags.verb == "bench":
        rows = _bench_rows(flags, overrides)
        if flags.json:
            run_dir.write_json(pathlib.Path(flags.json), rows)
        return benchmarks.format_rows(rows)
    config = _config(flags, overrides)
    workdir = flags.workdir or (f"runs/{config.name}" if config else "")
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
            where = {"split": flags.split, "submission": flags.submission}
            result = evaluate(config, workdir, **where, **stage)
            last = config.stages[flags.stage or config.pipeline[-1]]
            split = last.target.get("eval", config.task.target.eval)
            split = flags.split or split
            text = format_table(result, network=last.network, split=split)
            if not result.confusion.any():
                text = f"{split} has no labels: nothing is scored."
            if flags.submission:
                count, folder = result.num_images, flags.submission
                text += f"\n{count} predictions (label ids) written to {folder}"
            return text
        case "predict":
            count = predict(
                config, workdir, images=flags.images, out=flags.out, **stage
            )
            return f"{count} images written to {flags.out}"
        case "convert":
            choice = {k: getattr(flags, k) for k in ("layout", "entry", "verify")}
            return convert(
                config, workdir, out=flags.out, waive=flags.waive, **choice, **stage
            )
    choice = {k: getattr(flags, k) for k in ("format", "size", "batch")}
    return export(config, workdir, out=flags.out, **choice, **stage)


def _bench_rows(
    flags: argparse.Namespace, overrides: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Timings of what `bench` is asked for."""
    if flags.networks:
        names = [] if flags.networks == "all" else flags.networks.split(",")
        size = tuple(flags.size or (512, 512))
        return bench_networks(names, size=size, num_steps=flags.steps)
    if flags.gmm:
        return bench_mixtures(flags.gmm_rows, num_steps=flags.steps)
    if flags.thresholds:
        return bench_thresholds(flags.images, size=tuple(flags.size or (512, 1024)))
    settings = {"steps": flags.steps, "stage": flags.stage}
    if not flags.variants:
        images = flags.images if flags.input else 0
        return bench(_config(flags, overrides), images=images, **settings)
    if not flags.config:
        raise ConfigError("--variants of which recipe?", hint="--config configs/g2c.py")
    rows = []
    for name in flags.variants.split(","):
        config = configs.load_config(f"{flags.config}:{name}", overrides)
        rows += [{"variant": name, **row} for row in bench(config, **settings)]
    return benchmarks.compared(rows)


def _config(
    flags: argparse.Namespace, overrides: Mapping[str, str]
) -> ConfigDict | None:
    """The recipe named, or a run directory's; None where a checkpoint is enough."""
    if flags.config:
        return configs.load_config(flags.config, overrides)
    if flags.workdir:
        path = pathlib.Path(flags.workdir) / "config.json"
        return configs.from_json(path, overrides)
    if flags.verb in ("convert", "export") and flags.checkpoint and not overrides:
        return None
    raise ConfigError(
        "Which recipe?", hint="python -m sfda_jax.main --config configs/demo.py"
    )


def _open(config: ConfigDict | None, checkpoint: str, **choice: Any) -> Filled:
    """A checkpoint as the recipe's network, or as what its names say it is."""
    if config is None:
        return open_model(checkpoint, **choice)
    return read_network(configs.build(config), checkpoint, **choice)


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
    return origins.stage_network(recipe, folder, index)


def _stage_index(recipe: Recipe, name: str) -> int:
    """Position of a stage, the last one where none is named."""
    names = [s.name for s in recipe.stages]
    if name:
        check_choice("--stage", name, names)
    return names.index(name or names[-1])


def _gamma(recipe: Recipe, stage: str) -> float:
    return recipe.stages[_stage_index(recipe, stage)].method.gamma
