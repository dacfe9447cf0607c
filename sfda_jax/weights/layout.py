"""Where every array of a published checkpoint lives in our variables.

A layout is a module of `weights/layouts/`. It defines

- `KIND`: the `models/` module it fills,
- `SECTIONS`: section of the file → our submodule, `{"": ""}` for one state dict,
- `DROPPED`: patterns of names that files may hold beside the network,
- `published_name(path) -> (section, name)` for each of our leaves; `{outputs}` in a
  name stands for the length of the leaf's last axis,

and, where turning kernels is not all there is to it, `to_published(path, array)` and
`to_ours(path, array)`. A kind may have several; the one of its own name is the one
written.
"""

import collections
import dataclasses
import functools
import importlib
import pkgutil
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from sfda_jax.errors import CheckpointError
from sfda_jax.registry import check_choice
from sfda_jax.types import Key, ModelState
from sfda_jax.weights import layouts

OUTPUTS = "{outputs}"
"""Stands for a leaf's last axis in a published name."""

COLLECTIONS = ("params", "batch_stats")
"""Trees of one network's variables."""

_QUICK_COMPILE = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """One array of a published checkpoint and its place in our variables.

    Attributes:
        section: state dict that holds it, for instance `classifier`; may be empty.
        name: its name there.
        shape: its shape there.
        collection: `params` or `batch_stats`.
        path: our keys below the collection.
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
        return joined(self.section, self.name)


def joined(section: str, name: str) -> str:
    """`section/name`, or the name alone where there are no sections."""
    return f"{section}/{name}" if section else name


def kind_of(model: nn.Module) -> str:
    """The network's module, e.g. `deeplab_v2`: the name recipes call it by."""
    return type(model).__module__.rsplit(".", 1)[-1]


@functools.cache
def layout_names(kind: str) -> tuple[str, ...]:
    """Names of the layouts known for a kind of network, the default one first."""
    found = [module.name for module in pkgutil.iter_modules(layouts.__path__)]
    fitting = [name for name in found if kind == getattr(_layout(name), "KIND", "")]
    return tuple(sorted(fitting, key=lambda name: (name != kind, name)))


def _layout(name: str) -> ModuleType:
    return importlib.import_module(f"{layouts.__name__}.{name}")


def layout_name(layout: ModuleType) -> str:
    """The name that `--layout` and reports call a layout by."""
    return layout.__name__.rsplit(".", 1)[-1]


def layouts_of(model: nn.Module, name: str = "") -> tuple[ModuleType, ...]:
    """The layouts that may hold this network, the default one first.

    Args:
        model: the network.
        name: the only one wanted; empty for all.

    Raises:
        CheckpointError: no layout is known for this kind of network.
        ConfigError: `name` is none of them.
    """
    return layouts_of_kind(kind_of(model), name)


def layouts_of_kind(kind: str, name: str = "") -> tuple[ModuleType, ...]:
    """`layouts_of` a network of this kind."""
    names = layout_names(kind)
    if not names:
        module = f"{layouts.__name__}.{kind}".replace(".", "/")
        raise CheckpointError(
            f"No published checkpoint layout is known for the network {kind!r}.",
            hint="Write an Orbax folder, or our own names: --layout ours. A layout is "
            f"a name map, {module}.py.",
        )
    if name:
        check_choice("layout", name, names)
        names = (name,)
    return tuple(_layout(name) for name in names)


def abstract_state(model: nn.Module) -> ModelState:
    """Shapes and dtypes of the network's variables; computes nothing."""

    def init():
        return model.init(jax.random.key(0), _blank_input(model))

    return as_state(jax.eval_shape(init))


def init_state(model: nn.Module, key: Key) -> ModelState:
    """Freshly drawn variables, a function of the key.

    Random draws compile slowly on CPU, and this program runs once: compiled with
    fewer optimisations it is ready four times sooner.
    """
    options = _QUICK_COMPILE if jax.default_backend() == "cpu" else None
    init = jax.jit(model.init, compiler_options=options)
    return as_state(init(key, _blank_input(model)))


def _blank_input(model: nn.Module) -> jax.Array:
    channels = getattr(model, "input_channels", 3)
    return jnp.zeros((1, 33, 33, channels), jnp.float32)


def as_state(variables: Mapping[str, Any]) -> ModelState:
    """The variables that `model.init` returned."""
    return ModelState(
        params=variables["params"], batch_stats=variables.get("batch_stats", {})
    )


def flatten(state: ModelState) -> dict[str, dict[tuple[str, ...], Any]]:
    """Collection → path → leaf."""
    trees = {name: getattr(state, name) for name in COLLECTIONS}
    return {name: traverse_util.flatten_dict(tree) for name, tree in trees.items()}


def unflatten(flat: Mapping[str, Mapping[tuple[str, ...], Any]]) -> ModelState:
    """The state that `flatten` took apart."""
    return ModelState(**{k: traverse_util.unflatten_dict(v) for k, v in flat.items()})


def to_published(
    layout: ModuleType, path: tuple[str, ...], array: np.ndarray
) -> np.ndarray:
    """One of our arrays as its file holds it.

    HWIO kernels become OIHW, `[in, out]` becomes `[out, in]`; the rest stays.
    """
    if hasattr(layout, "to_published"):
        return layout.to_published(path, array)
    if path[-1] == "kernel" and array.ndim in (2, 4):
        return array.transpose((3, 2, 0, 1) if array.ndim == 4 else (1, 0))
    return array


def to_ours(layout: ModuleType, path: tuple[str, ...], array: np.ndarray) -> np.ndarray:
    """An array of a file as our variables hold it; undoes `to_published`."""
    if hasattr(layout, "to_ours"):
        return layout.to_ours(path, array)
    if path[-1] == "kernel" and array.ndim in (2, 4):
        return array.transpose((2, 3, 1, 0) if array.ndim == 4 else (1, 0))
    return array


def published_entries(model: nn.Module, layout: str = "") -> list[Entry]:
    """Every array of the network's published checkpoint, in our order.

    Args:
        model: the network.
        layout: which of its layouts; empty for the default one.

    Raises:
        CheckpointError: no layout is known for this kind of network.
    """
    return entries_of(layouts_of(model, layout)[0], abstract_state(model))


def _published_name(layout: ModuleType, path: tuple[str, ...]) -> tuple[str, str]:
    try:
        return layout.published_name(path)
    except KeyError as error:
        raise CheckpointError(
            f"The layout {layout_name(layout)} has no name for {'/'.join(path)}.",
            hint="It belongs to a network with other settings.",
        ) from error


def entries_of(layout: ModuleType, shapes: ModelState) -> list[Entry]:
    """Every array that a file of this layout holds for variables of these shapes.

    Raises:
        CheckpointError: the layout has no name for one of them, or one for two.
    """
    entries = []
    for collection, leaves in flatten(shapes).items():
        for path, leaf in leaves.items():
            section, name = _published_name(layout, path)
            name = name.replace(OUTPUTS, str(leaf.shape[-1]))
            # A view of one zero: shapes follow the arrays without any memory.
            blank = np.broadcast_to(np.float32(0), leaf.shape)
            entries.append(
                Entry(
                    section=section,
                    name=name,
                    shape=to_published(layout, path, blank).shape,
                    collection=collection,
                    path=path,
                )
            )
    counts = collections.Counter(entry.key for entry in entries)
    repeated = [key for key, count in counts.items() if count > 1]
    if repeated:
        raise CheckpointError(
            f"The layout {layout_name(layout)} has one name for several arrays: "
            f"{', '.join(repeated[:5])}.",
            hint="It does not suit a network of these sizes: take --layout ours.",
        )
    return entries
