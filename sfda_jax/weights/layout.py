"""Where every array of a published checkpoint lives in our variables."""

import dataclasses
import importlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util

from sfda_jax.errors import CheckpointError
from sfda_jax.types import Key, ModelState

_COLLECTIONS = ("params", "batch_stats")
_QUICK_COMPILE = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """One array of a published checkpoint and its place in our variables.

    Attributes:
        section: state dict that holds it, for instance `classifier`.
        name: its name there.
        shape: its shape there.
        collection: `params` or `batch_stats`.
        path: our keys below the collection.
        trainable: seen by optimiser and EMA.
    """

    section: str
    name: str
    shape: tuple[int, ...]
    collection: str
    path: tuple[str, ...]

    @property
    def trainable(self) -> bool:
        """Whether optimiser and EMA see it."""
        return self.collection == "params"

    @property
    def key(self) -> str:
        """Section and name in one word, what reports show and waivers match."""
        return f"{self.section}/{self.name}"


def kind_of(model: nn.Module) -> str:
    """The network's module, e.g. `deeplab_v2`: the name recipes call it by."""
    return type(model).__module__.rsplit(".", 1)[-1]


def layout_of(model: nn.Module) -> Any:
    """The module `<model>_names` beside this one: a layout is its name map.

    Raises:
        CheckpointError: no layout is known for this kind of network.
    """
    kind = kind_of(model)
    module = f"{__package__}.{kind}_names"
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise CheckpointError(
            f"No published checkpoint layout is known for the network {kind!r}.",
            hint=f"Add a name map as {module.replace('.', '/')}.py.",
        ) from error


def abstract_state(model: nn.Module) -> ModelState:
    """Shapes and dtypes of the network's variables; computes nothing."""

    def init():
        return model.init(jax.random.key(0), jnp.zeros((1, 33, 33, 3), jnp.float32))

    return as_state(jax.eval_shape(init))


def init_state(model: nn.Module, key: Key) -> ModelState:
    """Freshly drawn variables, a function of the key.

    Random draws compile slowly on CPU, and this program runs once: compiled with
    fewer optimisations it is ready four times sooner.
    """
    options = _QUICK_COMPILE if jax.default_backend() == "cpu" else None
    init = jax.jit(model.init, compiler_options=options)
    return as_state(init(key, jnp.zeros((1, 33, 33, 3), jnp.float32)))


def as_state(variables: Mapping[str, Any]) -> ModelState:
    """The variables that `model.init` returned."""
    return ModelState(
        params=variables["params"], batch_stats=variables.get("batch_stats", {})
    )


def flatten(state: ModelState) -> dict[str, dict[tuple[str, ...], Any]]:
    """Collection → path → leaf."""
    trees = {name: getattr(state, name) for name in _COLLECTIONS}
    return {name: traverse_util.flatten_dict(tree) for name, tree in trees.items()}


def published_entries(model: nn.Module) -> list[Entry]:
    """Every array of the network's published checkpoint, in our order.

    Raises:
        CheckpointError: no layout is known for this kind of network.
    """
    layout = layout_of(model)
    entries = []
    for collection, leaves in flatten(abstract_state(model)).items():
        for path, leaf in leaves.items():
            section, name = layout.published_name(path)
            shape = leaf.shape
            if len(shape) == 4:  # HWIO → OIHW
                shape = (shape[3], shape[2], shape[0], shape[1])
            entries.append(
                Entry(
                    section=section,
                    name=name,
                    shape=shape,
                    collection=collection,
                    path=path,
                )
            )
    return entries
