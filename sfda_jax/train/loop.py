"""Stages, rounds, steps: the one loop that every recipe runs through."""

import dataclasses
import logging
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

from sfda_jax.data.access import DataAccess
from sfda_jax.data.lists import describe
from sfda_jax.data.streams import open_stream
from sfda_jax.train import recipe as recipes
from sfda_jax.train.checkpoints import (
    Checkpoints,
    abstract_like,
    network,
    open_checkpoints,
)
from sfda_jax.train.health import Collapse, HealthMonitor, log_rollback, stop_error
from sfda_jax.train.interrupt import Interrupted, stop_requests
from sfda_jax.train.loggers import MetricsLog, open_log, progress
from sfda_jax.train.lookups import compile_round, split_streams
from sfda_jax.train.optim import make_optimizer
from sfda_jax.train.origins import kept_positions, origin_network, stage_origin
from sfda_jax.train.parallel import Parallel, make_parallel
from sfda_jax.train.recipe import Position, Recipe
from sfda_jax.train.round_context import make_round_context
from sfda_jax.train.run_dir import environment, write_json
from sfda_jax.train.scoring import Scorer
from sfda_jax.train.states import stage_key, start_state
from sfda_jax.train.step_log import StepLog
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
        SfdaError: bad data, a full disk, a non-finite loss, a collapse where
            `health.action` is `stop`.
        Interrupted: SIGTERM or Ctrl-C, after everything was saved.
    """
    parallel = make_parallel(recipe.parallel.mode, recipe.parallel.devices)
    access = make_access(recipe)
    domains = recipe.domains
    access.check_eval(domains)
    chosen = access.used_lists(domains)
    for domain, record in chosen.items():
        _log.info("%s", describe(domain, record))
    found = environment(access.fingerprints(domains), chosen)
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
        _log.info("Resuming at %s.", recipes.describe(recipe, position))
    for index, stage in enumerate(recipe.stages):
        if not stage.trains_on_source:
            access = access.without_source()
        access = access.with_target(stage.task.target)
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
            try:
                state = _run_round(run, start, access, state)
            except Collapse as collapse:
                state = _last_healthy(run, collapse)
                break
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


def _last_healthy(run: _Run, collapse: Collapse) -> AdaptState:
    """The stage's last healthy state, saved as its end; an error where it stops."""
    recipe, checkpoints, index = run.recipe, run.checkpoints, collapse.position.stage
    checkpoints.wait()
    kept = checkpoints.latest()
    if recipe.health.action == "stop":
        raise stop_error(recipe, run.run_dir, collapse, kept)
    if kept is None or kept < run.tick(Position(index)):
        to = None
        origin = stage_origin(recipe, index)
        healthy = _start(run, index, origin_network(recipe, run.run_dir, origin))
    else:
        to = recipes.position_of(recipe, kept)
        healthy = checkpoints.restore(kept, _abstract(run, to))
    log_rollback(recipe, run.log, collapse, to)
    # As the last round would have left it: a resumed run restores that.
    end = recipes.stage_end(recipe, index)
    state = _start(run, index, healthy.student, end.round)
    state = state.replace(step=healthy.step, teacher=healthy.teacher)
    # What the recipe refers to by name has to be there, though it was not reached.
    for number in sorted(run.kept):
        if (-1 if kept is None else kept) < number <= run.tick(end):
            checkpoints.save(number, state)
            checkpoints.wait()
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
    monitor = HealthMonitor(
        recipe, run.run_dir, start=start, access=access, log=run.log
    )
    if not start.step:
        state = _round_start(run, start, state)
    if start == Position(start.stage):
        monitor.begin(start, network(state, stage.network))
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
                run,
                start,
                placed,
                step=step,
                batches=batches,
                access=access,
                monitor=monitor,
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
    run: _Run,
    start: Position,
    state,
    *,
    step,
    batches,
    access: DataAccess,
    monitor: HealthMonitor,
) -> AdaptState:
    """The steps of a round. `state` is as the compiled step takes it, donated."""
    recipe, parallel = run.recipe, run.parallel
    stage = recipe.stages[start.stage]
    key = stage_key(recipe, start.stage)
    total = stage.rounds[start.round].num_steps
    title = f"{stage.name} {start.round + 1}/{len(stage.rounds)}"
    window = StepLog(recipe, parallel, log=run.log, checkpoints=run.checkpoints)
    with progress(title, total, start.step) as bar:
        for number, batch in enumerate(batches, start.step + 1):
            here = dataclasses.replace(start, step=number)
            placed = {name: parallel.put_batch(part) for name, part in batch.items()}
            state, metrics = step(state, placed, key)
            window.add(here, metrics, batch)
            stopping, end = run.stop(), number == total
            kept = run.tick(here) in run.kept
            due = number % recipe.checkpoint.every == 0 or kept or end
            looking = monitor.due(number, saving=due)
            if number % recipe.log.every == 0 or due or looking or stopping:
                shown = window.flush()
                bar.set_postfix(shown, refresh=False)
            bar.update()
            healthy = True
            if looking:
                plain = network(parallel.get_state(state), stage.network)
                healthy = monitor.look(here, plain, final=kept or end)
            elif stopping:
                plain = network(parallel.get_state(state), stage.network)
                healthy = monitor.allows(plain)
            if healthy and (stopping or (due and not end)):
                run.checkpoints.save(run.tick(here), _copy(parallel.get_state(state)))
            if stopping:
                run.checkpoints.wait()
                raise Interrupted(stopping)
            every = recipe.evaluation.every
            if every and number % every == 0 and number < total:
                plain = network(parallel.get_state(state), stage.network)
                run.scorer.score_now(here, plain, access)
    return parallel.get_state(state)


def _copy(state: AdaptState) -> AdaptState:
    """A copy that the next step cannot overwrite while it is being written."""
    return jax.tree.map(lambda x: x.copy(), state)
