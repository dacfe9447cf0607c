"""`.safetensors` files as section → name → array.

The format is one flat list of names. A section is written before its names as
`section/name`; a state dict without sections is the section `""` and keeps its names.
"""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import ml_dtypes  # noqa: F401  teaches NumPy the name bfloat16
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from sfda_jax.errors import CheckpointError


def read_safetensors_file(
    path: str | os.PathLike[str],
) -> dict[str, dict[str, np.ndarray]]:
    """The arrays of a `.safetensors` file: section → name → array, names sorted.

    bfloat16 arrives as `ml_dtypes.bfloat16`.

    Args:
        path: file of this or any other writer; names without `/` are section `""`.

    Raises:
        CheckpointError: missing, damaged, or of a type that NumPy does not have.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise CheckpointError(
            f"Checkpoint {path} does not exist.", hint="Check the path."
        )
    try:
        arrays = load_file(path)
    # The library looks up types that it knows and NumPy does not (8-bit floats).
    except (SafetensorError, OSError, AttributeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} is no readable safetensors checkpoint ({error}).",
            hint="Download or save it again, with 16- or 32-bit floats.",
        ) from error
    tree: dict[str, dict[str, np.ndarray]] = {}
    for key in sorted(arrays):
        section, slash, name = key.partition("/")
        section, name = (section, name) if slash else ("", key)
        tree.setdefault(section, {})[name] = arrays[key]
    return tree


def write_safetensors_file(
    path: str | os.PathLike[str],
    tree: Mapping[str, Mapping[str, Any]],
) -> None:
    """Writes section → name → array as a `.safetensors` file.

    The same tree gives the same bytes; an interrupted write leaves no file.

    Args:
        path: file to write; its folder must exist.
        tree: arrays by section and name; section `""` leaves the names as they are.

    Raises:
        CheckpointError: the tree holds something else, or the file cannot be written.
    """
    arrays = {
        _key(section, name): np.asarray(value, order="C")
        for section, names in tree.items()
        for name, value in names.items()
    }
    path = pathlib.Path(path)
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_bytes(save(arrays))
        partial.replace(path)
    except (SafetensorError, OSError) as error:
        partial.unlink(missing_ok=True)
        raise CheckpointError(f"{path} cannot be written: {error}.") from error


def _key(section: str, name: str) -> str:
    if "/" in (section or name):
        raise CheckpointError(f"{section or name!r} would be read back as a section.")
    return f"{section}/{name}" if section else name
