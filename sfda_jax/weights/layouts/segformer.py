"""Published names of SegFormer as DAFormer's code base has it."""

from sfda_jax.weights.layouts import mmseg_parts
from sfda_jax.weights.layouts.mmseg_parts import part_name

KIND = "segformer"
"""The network it fills."""

SECTIONS = mmseg_parts.SECTIONS
"""Section of the file → our submodule."""

DROPPED = (*mmseg_parts.DROPPED, "decode_head.conv_seg.*")
"""Names that published files may hold beside the network: never loaded.

`conv_seg` is created by the published head's base class and never used.
"""


def head_layer(layer: str) -> str:
    """Their name of a layer of the head.

    Args:
        layer: ours, for instance `fuse.embed2`.
    """
    if layer == "classifier":
        return "linear_pred"
    layer = layer.removeprefix("fuse.")
    if layer.startswith("embed"):
        return f"linear_c.{layer.removeprefix('embed')}.proj"
    return layer.replace("mix", "linear_fuse")


def published_name(path: tuple[str, ...]) -> tuple[str, str]:
    """Section and name in the file of one of our leaves.

    Args:
        path: keys from the top of `params` or `batch_stats`, for instance
            `("head", "fuse", "mix", "bn", "mean")`.
    """
    return "", part_name(path, head_layer)
