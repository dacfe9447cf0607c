"""Published names of DAFormer, and of ATP's and SePiCo's students."""

import re

from sfda_jax.weights.layouts import mmseg_parts
from sfda_jax.weights.layouts.mmseg_parts import part_name

KIND = "daformer"
"""The network it fills."""

SECTIONS = mmseg_parts.SECTIONS
"""Section of the file → our submodule."""

DROPPED = mmseg_parts.DROPPED
"""Names that published files may hold beside the network: never loaded."""


def _head_layer(layer: str) -> str:
    if layer == "classifier":
        return "conv_seg"
    layer = layer.removeprefix("fuse.")
    if layer.startswith("embed"):
        return f"embed_layers.{layer.removeprefix('embed')}.proj"
    layer = re.sub(r"^branch(\d+)_(\w+)", r"aspp_modules.\1.\2_conv", layer)
    return f"fuse_layer.{re.sub(r'^branch', 'aspp_modules.', layer)}"


def published_name(path: tuple[str, ...]) -> tuple[str, str]:
    """Section and name in the file of one of our leaves.

    Args:
        path: keys from the top of `params` or `batch_stats`, for instance
            `("head", "fuse", "branch1_depthwise", "bn", "mean")`.
    """
    return "", part_name(path, _head_layer)
