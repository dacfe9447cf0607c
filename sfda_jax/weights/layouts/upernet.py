"""Published names of UPerNet as DAFormer's code base has it."""

import re

from sfda_jax.weights.layouts import mmseg_parts
from sfda_jax.weights.layouts.mmseg_parts import part_name

KIND = "upernet"
"""The network it fills."""

SECTIONS = mmseg_parts.SECTIONS
"""Section of the file → our submodule."""

DROPPED = mmseg_parts.DROPPED
"""Names that published files may hold beside the network: never loaded."""

_LAYERS = (
    (r"^pool(\d+)", r"psp_modules.\1.1"),
    (r"^lateral(\d+)", r"lateral_convs.\1"),
    (r"^smooth(\d+)", r"fpn_convs.\1"),
    (r"^bottleneck", "fpn_bottleneck"),
    (r"^context", "bottleneck"),
)


def _head_layer(layer: str) -> str:
    if layer == "classifier":
        return "conv_seg"
    layer = layer.removeprefix("fuse.")
    for ours, theirs in _LAYERS:
        if re.match(ours, layer):
            return re.sub(ours, theirs, layer)
    return layer


def published_name(path: tuple[str, ...]) -> tuple[str, str]:
    """Section and name in the file of one of our leaves.

    Args:
        path: keys from the top of `params` or `batch_stats`, for instance
            `("head", "fuse", "pool0", "bn", "mean")`.
    """
    return "", part_name(path, _head_layer)
