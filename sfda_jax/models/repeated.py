"""Equal blocks in a row: recomputed in the backward pass, or compiled only once.

The parameter tree stays per block: what `scan` stacks, it stacks inside the program.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array

from sfda_jax.registry import check_choice

# Shorter runs compile faster as they stand than as the body of a loop.
_SHORTEST_RUN = 4
_RNGS = ("dropout",)


def check_stages(what: str, chosen: Iterable[str], stages: Iterable[str]) -> None:
    """Refuses a stage that the network does not have.

    Raises:
        ConfigError: names the closest one and all of them.
    """
    for stage in chosen:
        check_choice(what, stage, stages)


def run_blocks(
    call: Callable[..., Array],
    blocks: Sequence[nn.Module],
    x: Array,
    *,
    remat: bool = False,
    scan: bool = False,
    per_block: Sequence[Any] = (),
) -> Array:
    """The blocks one after the other; the values of a plain loop, whatever is chosen.

    With `remat` or `scan` a block's dropout draws other numbers than in the loop.

    Args:
        call: `call(block, x)`, or `call(block, x, value)` with a value per block;
            returns what the next block takes, of the same shape and dtype where blocks
            are scanned.
        blocks: submodules of the module that is running.
        x: input of the first block.
        remat: keep a block's input only, and compute the rest again for the gradient.
        scan: run neighbouring blocks of equal settings as one `lax.scan` over their
            stacked variables: quicker to compile, at the price of a copy of them.
        per_block: what differs between equal blocks, e.g. a drop rate; arrays or
            numbers, one entry per block.
    """
    values = [(value,) for value in per_block] or [()] * len(blocks)
    if not (remat or scan) or blocks[0].is_initializing():
        for block, value in zip(blocks, values, strict=True):
            x = call(block, x, *value)
        return x
    start = 0
    for run in _runs(blocks, scan):
        stop = start + len(run)
        x = _run_equal(call, run, x, values=values[start:stop], remat=remat)
        start = stop
    return x


def _runs(
    blocks: Sequence[nn.Module], scan: bool
) -> Iterator[list[tuple[nn.Module, nn.Module]]]:
    """(block, its settings) of neighbours that can share one program."""
    pairs = [(block, block.unbind()[0]) for block in blocks]
    for _, group in itertools.groupby(pairs, key=lambda pair: pair[1]):
        run = list(group)
        if scan and len(run) >= _SHORTEST_RUN:
            yield run
        else:
            yield from ([pair] for pair in run)


def _run_equal(call, run, x, *, values, remat):
    """One scan over the blocks of a run, or the only block of it."""
    first, module = run[0]
    mutable = [name for name in first.variables if first.is_mutable_collection(name)]
    apply = nn.apply(call, module, mutable=mutable)

    def step(x, block):
        variables, keys, value = block
        return apply(variables, x, *value, rngs=keys)

    if remat:
        # A loop is a barrier of its own against merging the two computations.
        step = jax.checkpoint(step, prevent_cse=len(run) == 1)
    inputs = [
        (block.variables, _keys(block), value)
        for (block, _), value in zip(run, values, strict=True)
    ]
    if len(run) == 1:
        x, changed = step(x, inputs[0])
        _store(first, changed)
        return x
    x, changed = lax.scan(step, x, jax.tree.map(lambda *a: jnp.stack(a), *inputs))
    for index, (block, _) in enumerate(run):
        _store(block, jax.tree.map(lambda leaf, i=index: leaf[i], changed))
    return x


def _keys(block: nn.Module) -> dict[str, jax.Array]:
    return {name: block.make_rng(name) for name in _RNGS if block.has_rng(name)}


def _store(block: nn.Module, changed: Any) -> None:
    for collection, tree in changed.items():
        for name, value in tree.items():
            block.put_variable(collection, name, value)
