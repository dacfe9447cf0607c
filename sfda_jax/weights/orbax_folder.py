"""One network as an Orbax folder, with what it takes to build the network again."""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from sfda_jax.errors import CheckpointError
from sfda_jax.types import ModelState

_ITEM = "network"
# What a run's checkpoints call theirs; the training state is of no use here.
_ITEMS = (_ITEM, "student", "teacher")


def read_orbax_folder(path: pathlib.Path) -> dict[str, Any]:
    """Collections of a converted network; of a run's checkpoint, student and teacher.

    Args:
        path: folder of `write_orbax_folder`, or `runs/NAME/checkpoints/NUMBER`.

    Raises:
        CheckpointError: no checkpoint, or damaged.
    """
    names = [name for name in _ITEMS if (path / name).is_dir()]
    if not names:
        inside = ", ".join(sorted(p.name for p in path.iterdir())[:8])
        raise CheckpointError(
            f"{path} is a folder, but no Orbax checkpoint of a network.",
            hint=f"It holds {inside or 'nothing'}; expected one of {', '.join(_ITEMS)}."
            " Give runs/NAME/checkpoints/NUMBER, or a folder that convert wrote.",
        )
    try:
        tree = {name: _load(path, name) for name in names}
    except (ValueError, KeyError, OSError) as error:
        reason = str(error).split("\n", 1)[0]
        raise CheckpointError(
            f"{path} is no readable Orbax checkpoint ({reason}).",
            hint="Convert or save it again.",
        ) from error
    return tree[_ITEM] if names == [_ITEM] else tree


def _load(path: pathlib.Path, name: str) -> Any:
    """An item, wherever its arrays lay when it was saved."""
    folder = str(path.resolve())
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    stored = ocp.metadata(folder, checkpointable_name=name).metadata
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), stored
    )
    loaded = ocp.load(folder, abstract, checkpointable_name=name)
    return jax.tree.map(np.asarray, loaded)


def description(path: pathlib.Path) -> Mapping[str, Any]:
    """What `write_orbax_folder` was told about the network; empty where nothing."""
    if not (path / _ITEM).is_dir():
        return {}
    found = ocp.metadata(str(path.resolve()), checkpointable_name=_ITEM)
    return _tuples(found.custom_metadata or {})


def _tuples(value: Any) -> Any:
    """JSON's lists as the tuples that modules take."""
    if isinstance(value, Mapping):
        return {key: _tuples(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return tuple(_tuples(inner) for inner in value)
    return value


def write_orbax_folder(
    path: pathlib.Path, state: ModelState, describe: Mapping[str, Any]
) -> None:
    """Writes a network, replacing what was there.

    Args:
        path: the folder.
        state: the network's variables.
        describe: kind and settings; JSON types.

    Raises:
        CheckpointError: the disk is full or not writable.
    """
    try:
        ocp.save_checkpointables(
            str(path.resolve()),
            {_ITEM: state},
            overwrite=True,
            custom_metadata=dict(describe),
        )
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written: {error}.") from error
