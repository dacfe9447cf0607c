"""Is a conversion right? Bits both ways, and the network's output against PyTorch's."""

import importlib.util
import os
from collections.abc import Mapping

import jax
import numpy as np
from flax import linen as nn

from sfda_jax.errors import CheckpointError
from sfda_jax.types import ModelState
from sfda_jax.weights.convert import Filled, load_published, to_torch
from sfda_jax.weights.layout import entries_of, joined, layouts_of
from sfda_jax.weights.match import Match
from sfda_jax.weights.torch_forward import FORWARDS, torch_logits

_IMAGE = (1, 65, 129, 3)
_MAX_RELATIVE = 1e-3


def verify_source(filled: Filled) -> list[str]:
    """Lines on the way in: back to the file's layout, bits compared; then PyTorch.

    Args:
        filled: the network and the file it comes from.

    Raises:
        CheckpointError: an array came back changed, or the outputs differ.
    """
    state, model = filled.state, filled.model
    found, report = filled.found, filled.report
    if found.layout is None:
        return ["an Orbax folder: its arrays were taken as they are"]
    again = published_arrays(state, model, found.name)
    changed = [key for key in report.matched if not _same(again[key], found, key)]
    if changed:
        raise CheckpointError(
            f"Converted back, {len(changed)} arrays differ from the file: "
            f"{', '.join(changed[:5])}.",
            hint="Were they stored in more than 32 bits?",
        )
    lines = [f"converted back: {len(report.matched)} arrays are bit-identical"]
    taken = {key: found.arrays[key] for key in report.matched}
    return [*lines, compare_with_torch(state, model, found.name, taken)]


def verify_written(
    path: str | os.PathLike[str], state: ModelState, model: nn.Module
) -> str:
    """A line on the way out: the written file, read again, bits compared.

    Raises:
        CheckpointError: an array came back changed.
    """
    again = load_published(path, model, waive=("*",)).state
    pairs = zip(jax.tree.leaves(state), jax.tree.leaves(again), strict=True)
    equal = [_bits(np.asarray(a)) == _bits(np.asarray(b)) for a, b in pairs]
    if not all(equal):
        raise CheckpointError(
            f"{path}: {equal.count(False)} arrays are not what was written.",
            hint="Is the disk full or the folder shared? Write it again.",
        )
    return f"read again: {len(equal)} arrays are bit-identical"


def published_arrays(
    state: ModelState, model: nn.Module, layout: str
) -> dict[str, np.ndarray]:
    """The network's arrays by a layout's keys."""
    return {
        joined(section, name): array
        for section, names in to_torch(state, model, layout).items()
        for name, array in names.items()
    }


def compare_with_torch(
    state: ModelState, model: nn.Module, layout: str, arrays: Mapping[str, np.ndarray]
) -> str:
    """A line: the largest difference between our logits and PyTorch's on one image.

    Raises:
        CheckpointError: they differ by more than rounding.
    """
    if layout not in FORWARDS:
        return f"outputs not compared: there is no PyTorch network for {layout}"
    if importlib.util.find_spec("torch") is None:
        return "outputs not compared: PyTorch is not installed (pip install torch)"
    entries = entries_of(layouts_of(model, layout)[0], state)
    if not {entry.key for entry in entries} <= arrays.keys():
        return "outputs not compared: the file holds only a part of the network"
    image = np.random.default_rng(0).normal(size=_IMAGE).astype(np.float32)
    theirs = torch_logits(layout, model, arrays, image)
    with jax.default_matmul_precision("highest"):
        ours = jax.jit(lambda v, x: model.apply(v, x).logits)(state.variables, image)
    difference = float(np.abs(np.asarray(ours) - theirs).max())
    largest = float(np.abs(theirs).max())
    line = f"largest difference of logits to PyTorch: {difference:.2g} "
    line += f"(largest logit {largest:.3g})"
    if not difference <= _MAX_RELATIVE * max(largest, 1.0):
        raise CheckpointError(
            f"The converted network does not compute what PyTorch does: {line}.",
            hint="Are the settings (bn_eps, dilations, stride_first) the file's?",
        )
    return line


def _same(array: np.ndarray, found: Match, key: str) -> bool:
    original = found.arrays[key]
    return _bits(array.astype(original.dtype)) == _bits(original)


def _bits(array: np.ndarray) -> tuple[str, tuple[int, ...], bytes]:
    return str(array.dtype), array.shape, array.tobytes()
