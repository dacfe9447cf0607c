"""Published names of SegFormer's own releases: linear layers counted from 1."""

from sfda_jax.weights.layouts import segformer as segformer_names
from sfda_jax.weights.layouts.mmseg_parts import part_name
from sfda_jax.weights.layouts.segformer import head_layer

KIND = "segformer"
"""The network it fills."""

SECTIONS = segformer_names.SECTIONS
"""Section of the file → our submodule."""

DROPPED = segformer_names.DROPPED
"""Names that published files may hold beside the network: never loaded."""


def _head_layer(layer: str) -> str:
    if not layer.startswith("fuse.embed"):
        return head_layer(layer)
    return f"linear_c{int(layer.removeprefix('fuse.embed')) + 1}.proj"


def published_name(path: tuple[str, ...]) -> tuple[str, str]:
    """Section and name in the file of one of our leaves.

    Args:
        path: keys from the top of `params` or `batch_stats`, for instance
            `("head", "fuse", "embed0", "kernel")`.
    """
    return "", part_name(path, _head_layer)
