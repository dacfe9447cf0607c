"""The state a stage starts with: fresh, handed on, or from a published file."""

import pathlib

import jax
import jax.numpy as jnp
import optax

from sfda_jax.methods.base import MethodBase
from sfda_jax.train.checkpoints import abstract_like, load_item, save_item
from sfda_jax.train.recipe import Recipe
from sfda_jax.types import AdaptState, Key, ModelState
from sfda_jax.weights.convert import load_torch, save_torch
from sfda_jax.weights.layout import abstract_state, init_state


def stage_key(recipe: Recipe, stage: int) -> Key:
    """The random key of a stage; the step folds its number into it."""
    return jax.random.fold_in(jax.random.key(recipe.seed), stage)


def init_network(recipe: Recipe) -> ModelState:
    """A freshly initialised network, a function of the recipe's seed."""
    return init_state(recipe.model, jax.random.key(recipe.seed))


def load_network(recipe: Recipe, path: str) -> ModelState:
    """The network of a published PyTorch file or of a converted Orbax folder.

    `imagenet:PATH` takes the backbone only and leaves the head as initialised.

    Raises:
        CheckpointError: the file is missing, damaged or of another network.
    """
    file = pathlib.Path(path.removeprefix("imagenet:"))
    if file.is_dir():
        sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        shapes = abstract_state(recipe.model)
        return load_item(file, "network", abstract_like(shapes, sharding))
    initial = init_network(recipe)
    only = path.startswith("imagenet:")
    return load_torch(file, recipe.model, initial=initial, backbone_only=only)


def save_network(recipe: Recipe, state: ModelState, path: pathlib.Path) -> None:
    """Writes a network alone: a published PyTorch file (.pth) or an Orbax folder."""
    if path.suffix in (".pth", ".pt"):
        save_torch(path, state, recipe.model)
    else:
        save_item(path, "network", state)


def start_state(
    method: MethodBase,
    optimizer: optax.GradientTransformation,
    student: ModelState,
    key: Key,
) -> AdaptState:
    """The state of a stage before its first round."""
    state = AdaptState(
        step=jnp.zeros((), jnp.int32),
        student=student,
        teacher=None,
        opt_state=optimizer.init(student.params),
        method=None,
    )
    return method.init(state, key)
