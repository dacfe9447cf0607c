"""What a recipe will do and what it costs, without doing it."""

import collections
import contextlib
import dataclasses
import itertools
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

from sfda_jax.train.lookups import compile_round, split_streams
from sfda_jax.train.loop import make_access, open_batches
from sfda_jax.train.optim import make_optimizer
from sfda_jax.train.parallel import Parallel, make_parallel
from sfda_jax.train.recipe import Position, Recipe
from sfda_jax.train.round_context import make_round_context
from sfda_jax.train.states import init_network, stage_key, start_state
from sfda_jax.types import AdaptState, Batch, Key, ModelState

_FEW, _READ_AHEAD = 8, 8


def plan(recipe: Recipe) -> str:
    """Stages, rounds, steps and streams with their counts, as text."""
    access = make_access(recipe)
    task = recipe.task
    lines = [f"{recipe.name}: task {task.name}, {task.classes.name}, {task.headline}"]
    if task.source is None:
        lines.append("  source: none")
    for name, side in recipe.domains.items():
        domain = "source" if name == "source" else "target"
        data = access if domain == "source" else access.with_target(side)
        labels = "labelled" if domain == "source" else "no labels"
        count = len(data.train(domain))
        chosen = f", list {side.train_list}" if side.train_list else ""
        text = f"  {name}: {side.dataset} {side.train}{chosen} "
        text += f"({count} images, {labels})"
        if side.eval:
            text += f", {side.eval} ({len(data.eval(domain))} labelled)"
        lines.append(text)
    for number, stage in enumerate(recipe.stages, 1):
        steps = [entry.num_steps for entry in stage.rounds]
        lines.append(
            f"  stage {number} {stage.name}: {stage.method_name}, "
            f"from {stage.init_from}, "
            f"{len(steps)} round(s), {sum(steps)} steps {steps}, "
            f"evaluates the {stage.network}"
        )
    return "\n".join(lines)


def compile_report(recipe: Recipe) -> list[dict[str, Any]]:
    """One row per stage with steps: parameters, compile seconds, device memory.

    Loads one real batch per stage. What a round prepares from the whole split is
    prepared from its first few images, in a temporary folder.
    """
    parallel = make_parallel(recipe.parallel.mode, recipe.parallel.devices)
    student = init_network(recipe)
    rows = []
    for index, stage in enumerate(recipe.stages):
        if not stage.rounds[0].num_steps:
            continue
        with start_trial(recipe, index, parallel=parallel, student=student) as trial:
            rows.append(
                {
                    "stage": stage.name,
                    "parameters": sum(x.size for x in jax.tree.leaves(student.params)),
                    "batch_seconds": round(trial.batch_seconds, 3),
                    "compile_seconds": round(trial.compile_seconds, 2),
                    **trial.memory(),
                }
            )
    return rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """One stage, ready to run: its compiled step, a state and one batch, on devices.

    `input_rate` is images/s of the input pipeline alone, 0 where it was not timed.
    """

    step: Callable[..., Any]
    state: AdaptState
    batch: Batch
    key: Key
    images: int
    batch_seconds: float
    input_rate: float
    compile_seconds: float

    def memory(self) -> dict[str, float]:
        """Device memory of the step in GiB, as the compiler counts it."""
        found = self.step.memory_analysis()
        if found is None:
            return {}
        gib = 2**30
        return {
            "state_and_batch_gib": round(found.argument_size_in_bytes / gib, 3),
            "temporary_gib": round(found.temp_size_in_bytes / gib, 3),
        }


@contextlib.contextmanager
def start_trial(
    recipe: Recipe,
    index: int,
    *,
    parallel: Parallel,
    student: ModelState,
    input_batches: int = 0,
) -> Iterator[Trial]:
    """A stage's first round on a few images, its first batch loaded, its step compiled.

    What the round writes, which its step may read, lasts as long as the context.

    Args:
        recipe: the recipe.
        index: which stage.
        parallel: devices and mode.
        student: the network it starts from, and labels with.
        input_batches: how many more batches to read, for `Trial.input_rate`.

    Raises:
        SfdaError: whatever the real run would stop at.
    """
    with tempfile.TemporaryDirectory() as folder:
        yield _trial(
            recipe,
            index,
            parallel=parallel,
            student=student,
            folder=pathlib.Path(folder),
            input_batches=input_batches,
        )


def _trial(
    recipe: Recipe,
    index: int,
    *,
    parallel: Parallel,
    student: ModelState,
    folder: pathlib.Path,
    input_batches: int,
) -> Trial:
    recipe = _with_steps(recipe, index, 1 + _READ_AHEAD + input_batches)
    method, settings = recipe.stages[index].at_round(0)
    optimizer = make_optimizer(settings)
    key = stage_key(recipe, index)
    # Copied: a step that runs takes its state's buffers for its own.
    student = jax.tree.map(lambda x: x.copy(), student)
    state = start_state(method, optimizer, student, key)
    access = dataclasses.replace(make_access(recipe), limit=_FEW)
    access = access.with_target(method.task.target)
    ctx = make_round_context(
        folder,
        recipe,
        stage=index,
        round_=0,
        access=access,
        parallel=parallel,
        trial=True,
    )
    state, streams = method.begin_round(ctx, state)
    streams, lookups = split_streams(streams)
    images = sum(spec.batch_size for spec in streams.values())
    started = time.perf_counter()
    batches = open_batches(recipe, streams, Position(stage=index), access)
    batch = next(batches)
    loaded = time.perf_counter()
    if input_batches:  # what was read ahead meanwhile would flatter the rate
        collections.deque(itertools.islice(batches, _READ_AHEAD), maxlen=0)
    timing = time.perf_counter()
    timed = sum(1 for _ in itertools.islice(batches, input_batches))
    input_seconds = time.perf_counter() - timing
    batches.close()
    placed = {name: parallel.put_batch(part) for name, part in batch.items()}
    state = parallel.put_state(state)
    compiling = time.perf_counter()
    step = compile_round(
        parallel, method, optimizer, lookups=lookups, seed=(recipe.seed, index, 0)
    )
    compiled = step.lower(state, placed, key).compile()
    return Trial(
        step=compiled,
        state=state,
        batch=placed,
        key=key,
        images=images,
        batch_seconds=loaded - started,
        input_rate=images * timed / input_seconds if timed else 0.0,
        compile_seconds=time.perf_counter() - compiling,
    )


def _with_steps(recipe: Recipe, index: int, num_steps: int) -> Recipe:
    """The recipe with a first round of a stage that lasts at least so long."""
    stages = list(recipe.stages)
    first, *others = stages[index].rounds
    num_steps = max(first.num_steps, num_steps)
    first = dataclasses.replace(first, num_steps=num_steps)
    stages[index] = dataclasses.replace(stages[index], rounds=(first, *others))
    return dataclasses.replace(recipe, stages=tuple(stages))
