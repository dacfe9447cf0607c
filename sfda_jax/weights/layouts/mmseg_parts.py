"""How checkpoints of mmsegmentation's trainers name encoder, head and projection."""

from collections.abc import Callable

from sfda_jax.errors import CheckpointError
from sfda_jax.weights.layouts.mix_transformer import LEAF, encoder_name

SECTIONS = {"": ""}
"""One state dict; `model.` or `ema_model.` before all names tells networks apart."""

DROPPED = ("backbone.head.*", "auxiliary_head.*", "*.num_batches_tracked")
"""ImageNet's classifier, a projection that the network lacks, counters of batches."""


def projection_name(path: tuple[str, ...]) -> str:
    """Their name of one of the projection's leaves.

    Args:
        path: keys from the top, for instance
            `("projection", "layer1", "conv", "kernel")`.
    """
    _, layer, part, leaf = path
    index = int(layer.removeprefix("layer")) - 1
    return f"auxiliary_head.convs.{index}.{part}.{LEAF[leaf]}"


def part_name(path: tuple[str, ...], head_layer: Callable[[str], str]) -> str:
    """Their name of one of the leaves of a network on a Mix Transformer.

    Args:
        path: keys from the top of `params` or `batch_stats`.
        head_layer: their name of a layer of the head, from ours (`fuse.embed0`).

    Raises:
        CheckpointError: no such part.
    """
    part, *layers, leaf = path
    if part == "backbone":
        return f"backbone.{encoder_name((*layers, leaf))}"
    if part == "head":
        return f"decode_head.{head_layer('.'.join(layers))}.{LEAF[leaf]}"
    if part != "projection":
        raise CheckpointError(f"{'/'.join(path)} is no part of this network.")
    return projection_name(path)
