"""The state a stage starts with: fresh, handed on, or from a published file."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from sfda_jax.methods.base import MethodBase
from sfda_jax.train.recipe import Recipe
from sfda_jax.types import AdaptState, Key, ModelState
from sfda_jax.weights.convert import Filled, load_published
from sfda_jax.weights.layout import init_state
from sfda_jax.weights.published_files import check_hash


def stage_key(recipe: Recipe, stage: int) -> Key:
    """The random key of a stage; the step folds its number into it."""
    return jax.random.fold_in(jax.random.key(recipe.seed), stage)


def init_network(recipe: Recipe) -> ModelState:
    """A freshly initialised network, a function of the recipe's seed."""
    return init_state(recipe.model, jax.random.key(recipe.seed))


def load_network(recipe: Recipe, path: str, **choice: Any) -> ModelState:
    """The network of a published file or of a converted Orbax folder.

    Args:
        recipe: whose network the file must hold.
        path: file or folder; `imagenet:PATH` takes the backbone only and leaves the
            head as initialised.
        choice: `layout`, `entry` and `waive` of `weights.convert.fill`.

    Raises:
        CheckpointError: the file is missing, damaged or of another network.
    """
    return read_network(recipe, path, **choice).state


def read_network(recipe: Recipe, path: str, **choice: Any) -> Filled:
    """`load_network` with the report and the file's own arrays."""
    return read_file(
        path.removeprefix("imagenet:"),
        recipe.model,
        backbone_only=path.startswith("imagenet:"),
        initial=lambda: init_network(recipe),
        **choice,
    )


def read_file(path: str, model: nn.Module, **choice: Any) -> Filled:
    """Any network of a published file; `choice` is `weights.convert.fill`'s.

    Raises:
        CheckpointError: the file is missing, damaged or of another network.
    """
    file = pathlib.Path(path)
    check_hash(file)
    return load_published(file, model, **choice)


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
