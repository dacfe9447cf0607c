"""SimCLRv2 R101 1x sk0 as the backbone of DeepLabV3+ (BiSMAP's distillation)."""

from sfda_jax.weights.layouts import deeplab_v3_plus as deeplab_v3_plus_names
from sfda_jax.weights.layouts import simclr as simclr_names

KIND = "deeplab_v3_plus"
"""The network it fills; load the backbone alone."""

SECTIONS = {"resnet": "backbone", "": "head"}
"""Section of the file → our submodule; published files have no head."""

DROPPED = ("fc.*", *simclr_names.DROPPED)
"""Names that published files may hold beside the network: never loaded."""


def published_name(path: tuple[str, ...]) -> tuple[str, str]:
    """Section and name in the file of one of our leaves.

    Args:
        path: keys from the top of `params` or `batch_stats`, for instance
            `("backbone", "layer1_0", "downsample_bn", "mean")`.
    """
    layout = simclr_names if path[0] == "backbone" else deeplab_v3_plus_names
    return layout.published_name(path)
