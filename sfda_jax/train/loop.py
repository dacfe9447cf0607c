"""Stages, rounds, steps: the one loop that every recipe runs through."""

import dataclasses
import logging
import math
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from sfda_jax.data.access import DataAccess
from sfda_jax.data.lists import describe
from sfda_jax.data.streams import open_stream
from sfda_jax.errors import TrainingError
from sfda_jax.train import recipe as recipes
from sfda_jax.train.checkpoints import (
    Checkpoints,
    abstract_like,
    network,
    open_checkpoints,
)
from sfda_jax.train.interrupt import Interrupted, stop_requests
from sfda_jax.train.loggers import MetricsLog, memory_gib, open_log, progress
from sfda_jax.train.lookups import compile_round, split_streams
from sfda_jax.train.optim import make_optimizer
from sfda_jax.train.origins import kept_positions, origin_network, stage_origin
from sfda_jax.train.parallel import Parallel, make_parallel
from sfda_jax.train.recipe import Position, Recipe
from sfda_jax.train.round_context import make_round_context
from sfda_jax.train.run_dir import environment, write_json
from sfda_jax.train.scoring import Scorer
from sfda_jax.train.states import stage_key, start_state
from sfda_jax.types import AdaptState, ModelState, StreamSpec
from sfda_jax.weights.layout import abstract_state

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Run:
    """What stays the same while a run lasts."""

    recipe: Recipe
    run_dir: pathlib.Path
    parallel: Parallel
    checkpoints: Checkpoints
    log: MetricsLog
    scorer: Scorer
    stop: Callable[[], int]
    kept: frozenset[int]

    def tick(self, position: Position) -> int:
        return recipes.tick(self.recipe, position)


def adapt(recipe: Recipe, run_dir: pathlib.Path) -> None:
    """Runs a recipe from where its run directory stands to its end.

    Every stage's network is scored on the target as the stage ends; scores, label
    maps, logs and checkpoints stay in `run_dir`, and the same call resumes.

    Raises:
        SfdaError: bad data, a full disk, a non-finite loss.
        Interrupted: SIGTERM or Ctrl-C, after everything was saved.
    """
    parallel = make_parallel(recipe.parallel.mode, recipe.parallel.devices)
    access = make_access(recipe)
    chosen = access.used_lists()
    for domain, record in chosen.items():
        _log.info("%s", describe(domain, record))
    found = environment(access.fingerprints(), chosen)
    write_json(run_dir / "environment.json", found)
    kept = {recipes.tick(recipe, position) for position in kept_positions(recipe)}
    with (
        stop_requests() as stop,
        open_checkpoints(run_dir / "checkpoints", keep=sorted(kept)) as checkpoints,
    ):
        latest = checkpoints.latest()
        with open_log(run_dir, resumed_at=-1 if latest is None else latest) as log:
            run = _Run(
                recipe=recipe,
                run_dir=run_dir,
                parallel=parallel,
                checkpoints=checkpoints,
                log=log,
                scorer=Scorer(recipe=recipe, run_dir=run_dir, log=log),
                stop=stop,
                kept=frozenset(kept),
            )
            _run_stages(run, access, latest)


def make_access(recipe: Recipe) -> DataAccess:
    """The recipe's data."""
    data = recipe.data
    return DataAccess(
        task=recipe.task,
        data_dir=data.data_dir,
        manual_dirs=data.manual_dirs,
        generated_size=data.generated_size if data.generated else None,
        partial=data.partial,
    )


def _run_stages(run: _Run, access: DataAccess, latest: int | None) -> None:
    recipe = run.recipe
    position, state = Position(), None
    if latest is not None:
        position = recipes.position_of(recipe, latest)
        state = run.checkpoints.restore(latest, _abstract(run, position))
        _log.info("Resuming at %s.", _describe(recipe, position))
    for index, stage in enumerate(recipe.stages):
        if not stage.trains_on_source:
            access = access.without_source()
        if index < position.stage:
            continue
        if state is None:
            origin = stage_origin(recipe, index)
            student = origin_network(recipe, run.run_dir, origin)
            if index == 0 and origin != "scratch":
                run.scorer.score_start(student, access)
            state = _start(run, index, student)
        for round_ in range(position.round, len(stage.rounds)):
            start = Position(index, round_, position.step)
            state = _run_round(run, start, access, state)
            position = Position(index, round_ + 1)
        run.scorer.score_stage(index, network(state, stage.network), access)
        position, state = Position(index + 1), None


def _start(run: _Run, index: int, student: ModelState, round_: int = 0) -> AdaptState:
    stage = run.recipe.stages[index]
    method, settings = stage.at_round(round_)
    optimizer = make_optimizer(settings)
    key = stage_key(run.recipe, index)
    return start_state(method, optimizer, student, key)


def _round_start(run: _Run, start: Position, state: AdaptState) -> AdaptState:
    """The stage's state as a round begins: carried on, or afresh where it is said."""
    stage = run.recipe.stages[start.stage]
    origin = stage.rounds[start.round].init_from
    if origin:
        student = origin_network(run.recipe, run.run_dir, origin)
        fresh = _start(run, start.stage, student, start.round)
        # The step number counts on: it makes the keys of the stage's random decisions.
        return fresh.replace(step=state.step)
    if stage.fresh_optimizer:
        _, settings = stage.at_round(start.round)
        return state.replace(
            opt_state=make_optimizer(settings).init(state.student.params)
        )
    return state


def _abstract(run: _Run, position: Position) -> AdaptState:
    student = abstract_state(run.recipe.model)
    state = jax.eval_shape(
        lambda s: _start(run, position.stage, s, position.round), student
    )
    return abstract_like(state, run.parallel.replicated)


def _run_round(
    run: _Run, start: Position, access: DataAccess, state: AdaptState
) -> AdaptState:
    """One round from `start.step` to its end, saved."""
    recipe, parallel = run.recipe, run.parallel
    stage = recipe.stages[start.stage]
    entry = stage.rounds[start.round]
    end = dataclasses.replace(start, step=entry.num_steps)
    if start == end and run.checkpoints.latest() == run.tick(end):
        return state
    method, optimizer = stage.at_round(start.round)
    ctx = make_round_context(
        run.run_dir,
        recipe,
        stage=start.stage,
        round_=start.round,
        access=access,
        parallel=parallel,
        stop=run.stop,
    )
    if not start.step:
        state = _round_start(run, start, state)
    begun, streams = method.begin_round(ctx, state)
    state = state if start.step else begun
    run.scorer.score_pseudo_labels(ctx.store, start, access)
    if entry.num_steps:
        streams, lookups = split_streams(streams)
        for spec in streams.values():
            name = f"stages.{stage.name}.settings.batch_size"
            parallel.check_batch(spec.batch_size, name)
        step = compile_round(
            parallel,
            method,
            make_optimizer(optimizer),
            lookups=lookups,
            seed=(recipe.seed, start.stage, start.round),
        )
        batches = open_batches(recipe, streams, start, access)
        try:
            placed = parallel.put_state(state)
            state = _run_steps(
                run, start, placed, step=step, batches=batches, access=access
            )
        finally:
            batches.close()
    run.checkpoints.save(run.tick(end), state)
    run.checkpoints.wait()
    return state


def open_batches(
    recipe: Recipe,
    streams: Mapping[str, StreamSpec],
    start: Position,
    access: DataAccess,
) -> Iterator[dict[str, Any]]:
    """This process's batches of a round, stream name → arrays, from `start.step` on."""
    entry = recipe.stages[start.stage].rounds[start.round]
    opened = {
        name: open_stream(
            access.train(spec.domain),
            spec,
            seed=(recipe.seed, start.stage, start.round, number),
            start=start.step,
            num_steps=entry.num_steps,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            workers=recipe.data.workers,
            threads=recipe.data.threads,
        )
        for number, (name, spec) in enumerate(streams.items())
    }
    try:
        for _ in range(start.step, entry.num_steps):
            yield {name: next(stream) for name, stream in opened.items()}
    finally:
        for stream in opened.values():
            stream.close()


def _run_steps(
    run: _Run, start: Position, state, *, step, batches, access: DataAccess
) -> AdaptState:
    """The steps of a round. `state` is as the compiled step takes it, donated."""
    recipe, parallel = run.recipe, run.parallel
    stage = recipe.stages[start.stage]
    key = stage_key(recipe, start.stage)
    total = stage.rounds[start.round].num_steps
    title = f"{stage.name} {start.round + 1}/{len(stage.rounds)}"
    window = _Window(run)
    with progress(title, total, start.step) as bar:
        for number, batch in enumerate(batches, start.step + 1):
            here = dataclasses.replace(start, step=number)
            placed = {name: parallel.put_batch(part) for name, part in batch.items()}
            state, metrics = step(state, placed, key)
            window.add(here, metrics, batch)
            stopping = run.stop()
            due = number % recipe.checkpoint.every == 0 or run.tick(here) in run.kept
            saving = due and number < total
            if number % recipe.log.every == 0 or number == total or saving or stopping:
                shown = window.flush()
                bar.set_postfix(shown, refresh=False)
            bar.update()
            if saving or stopping:
                run.checkpoints.save(run.tick(here), _copy(parallel.get_state(state)))
            if stopping:
                run.checkpoints.wait()
                raise Interrupted(stopping)
            every = recipe.evaluation.every
            if every and number % every == 0 and number < total:
                plain = network(parallel.get_state(state), stage.network)
                run.scorer.score_now(here, plain, access)
    return parallel.get_state(state)


class _Window:
    """Metrics of the steps since the last log line, still on the device.

    Every step's loss is looked at before anything is saved, so that the last
    checkpoint is always a good one.
    """

    def __init__(self, run: _Run):
        self._run = run
        self._steps = []
        self._since = time.perf_counter()

    def add(self, position: Position, metrics, batch) -> None:
        rows = {name: part.get("index") for name, part in batch.items()}
        images = sum(len(next(iter(part.values()))) for part in batch.values())
        self._steps.append((position, metrics, rows, images))

    def flush(self) -> dict[str, str]:
        """Logs the window's means; returns what the progress bar shows."""
        run, steps = self._run, self._steps
        values = run.parallel.get_metrics([metrics for _, metrics, _, _ in steps])
        for (position, _, rows, _), metrics in zip(steps, values, strict=True):
            if not math.isfinite(metrics["loss"]):
                raise _not_finite(run, position, metrics, rows)
        now = time.perf_counter()
        seconds = (now - self._since) / len(steps)
        images = steps[-1][3]
        means = {k: float(np.mean([v[k] for v in values])) for k in values[0]}
        position = steps[-1][0]
        run.log.write(
            run.tick(position),
            {
                "stage": run.recipe.stages[position.stage].name,
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


def _not_finite(run: _Run, position: Position, metrics, rows) -> TrainingError:
    listed = "; ".join(
        f"{name}: {np.asarray(ids).tolist()}"
        for name, ids in rows.items()
        if ids is not None
    )
    latest = run.checkpoints.latest()
    good = "none" if latest is None else run.checkpoints.directory / str(latest)
    lr = metrics.get("learning_rate", math.nan)
    return TrainingError(
        f"Loss is {float(metrics['loss'])} at {_describe(run.recipe, position)} "
        f"(learning rate {float(lr):.3g}); dataset positions of the batch: "
        f"{listed or 'unknown'}. Last good checkpoint: {good}.",
        hint="Lower config.stages.NAME.optimizer.learning_rate and start in a new "
        "--workdir.",
    )


def _describe(recipe: Recipe, position: Position) -> str:
    stage = recipe.stages[position.stage]
    total = stage.rounds[position.round].num_steps
    return (
        f"stage {stage.name!r}, round {position.round + 1}/{len(stage.rounds)}, "
        f"step {position.step}/{total}"
    )


def _copy(state: AdaptState) -> AdaptState:
    """A copy that the next step cannot overwrite while it is being written."""
    return jax.tree.map(lambda x: x.copy(), state)
