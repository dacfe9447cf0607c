"""Networks that a run has made: what `stage:NAME/ROUND@step=N` means, and where it is.

What a recipe refers to is saved when the run comes by, and never deleted.
"""

import dataclasses
import pathlib
import re

import jax

from sfda_jax.errors import ConfigError
from sfda_jax.registry import closest
from sfda_jax.train import recipe as recipes
from sfda_jax.train.checkpoints import abstract_like, load_item
from sfda_jax.train.recipe import Position, Recipe
from sfda_jax.train.states import init_network, load_network
from sfda_jax.types import ModelState
from sfda_jax.weights.layout import abstract_state

_OWN = re.compile(r"stage:(?P<name>[^/@]+)(/(?P<round>\d+))?(@step=(?P<step>\d+))?")
_FORM = "Expected stage:NAME, stage:NAME/ROUND or stage:NAME/ROUND@step=N."


def is_own(origin: str) -> bool:
    """Whether an origin names a network of this run, not a file."""
    return origin.startswith("stage:")


def own_position(recipe: Recipe, origin: str) -> Position:
    """The position that `stage:NAME[/ROUND][@step=N]` names; the last one by default.

    Raises:
        ConfigError: another form, an unknown stage, a round or step it does not have.
    """
    found = _OWN.fullmatch(origin)
    if found is None:
        raise ConfigError(f"{origin!r} names no network of this run.", hint=_FORM)
    names = [stage.name for stage in recipe.stages]
    if found["name"] not in names:
        raise ConfigError(
            f"{origin!r}: the pipeline has no stage {found['name']!r}."
            f"{closest(found['name'], names)}",
            hint=f"It has: {', '.join(names)}.",
        )
    stage = names.index(found["name"])
    rounds = recipe.stages[stage].rounds
    round_ = len(rounds) - 1 if found["round"] is None else int(found["round"])
    if round_ >= len(rounds):
        raise ConfigError(
            f"{origin!r}: stage {found['name']!r} has the rounds 0 to "
            f"{len(rounds) - 1}."
        )
    last = rounds[round_].num_steps
    step = last if found["step"] is None else int(found["step"])
    if step > last:
        raise ConfigError(
            f"{origin!r}: round {round_} of {found['name']!r} ends at step {last}."
        )
    return Position(stage, round_, step)


def kept_positions(recipe: Recipe) -> set[Position]:
    """Positions whose networks stay: stage ends, and what the recipe refers to.

    Raises:
        ConfigError: a reference that is wrong, or to what comes later.
    """
    ends = {recipes.stage_end(recipe, s) for s in range(len(recipe.stages))}
    return ends | {own_position(recipe, origin) for _, origin in _references(recipe)}


def check_references(recipe: Recipe) -> None:
    """Refuses references to what does not exist yet, or is of another domain's images.

    Raises:
        ConfigError: names the reference and where it stands.
    """
    for here, origin in _references(recipe):
        if own_position(recipe, origin) >= here:
            stage = recipe.stages[here.stage].name
            raise ConfigError(
                f"Round {here.round} of stage {stage!r} refers to {origin!r}, which "
                "comes later.",
                hint="Refer to an earlier stage, round or step.",
            )
    for stage in recipe.stages:
        for origin in stage.method.reads_labels_of:
            other = recipe.stages[own_position(recipe, origin).stage]
            if other.task.target != stage.task.target:
                raise ConfigError(
                    f"Stage {stage.name!r} reads the label maps of {origin!r}, which "
                    "adapts to another target.",
                    hint=f"Give both the same: --config.stages.{stage.name}.target=…",
                )


def origin_network(recipe: Recipe, run_dir: pathlib.Path, origin: str) -> ModelState:
    """The network of an origin: `scratch`, one of this run, or a published file.

    Raises:
        CheckpointError: it is missing, damaged or another network's.
    """
    if origin == "scratch":
        return init_network(recipe)
    if is_own(origin):
        return network_at(recipe, run_dir, own_position(recipe, origin))
    return load_network(recipe, origin)


def stage_origin(recipe: Recipe, index: int) -> str:
    """A stage's `init_from`, with `previous` spelt out."""
    origin = recipe.stages[index].init_from
    if origin != "previous":
        return origin
    return f"stage:{recipe.stages[index - 1].name}" if index else "scratch"


def stage_network(recipe: Recipe, run_dir: pathlib.Path, index: int) -> ModelState:
    """The network that a finished stage evaluates, from its checkpoint alone.

    Raises:
        CheckpointError: the stage is not finished, or was another network's.
    """
    return network_at(recipe, run_dir, recipes.stage_end(recipe, index))


def network_at(recipe: Recipe, run_dir: pathlib.Path, position: Position) -> ModelState:
    """The network that a stage evaluates, as it was at a saved position.

    Raises:
        CheckpointError: nothing is saved there, or it was another network's.
    """
    number = recipes.tick(recipe, position)
    shapes = abstract_state(recipe.model)
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return load_item(
        run_dir / "checkpoints" / str(number),
        recipe.stages[position.stage].network,
        abstract_like(shapes, sharding),
    )


def _references(recipe: Recipe) -> list[tuple[Position, str]]:
    """(where it is needed, origin) of every network or round of this run by name."""
    found = []
    for index, stage in enumerate(recipe.stages):
        read = stage.method.reads_labels_of
        found += [(Position(index), origin) for origin in (stage.init_from, *read)]
        for round_, entry in enumerate(stage.rounds):
            here = dataclasses.replace(Position(index), round=round_)
            found += [(here, entry.init_from), (here, entry.labels_from)]
    return [(here, origin) for here, origin in found if is_own(origin)]
