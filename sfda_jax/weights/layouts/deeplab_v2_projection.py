"""Published names of DeepLabV2 with a projection (ATP, SePiCo)."""

from sfda_jax.weights.layouts import deeplab_v2_atp as deeplab_v2_atp_names
from sfda_jax.weights.layouts.mmseg_parts import projection_name

KIND = "deeplab_v2_projection"
"""The network it fills."""

SECTIONS = deeplab_v2_atp_names.SECTIONS
"""Section of the file → our submodule."""

DROPPED = deeplab_v2_atp_names.DROPPED
"""Names that published files may hold beside the network: never loaded."""


def published_name(path: tuple[str, ...]) -> tuple[str, str]:
    """Section and name in the file of one of our leaves.

    Args:
        path: keys from the top of `params` or `batch_stats`, for instance
            `("projection", "layer1", "conv", "kernel")`.
    """
    if path[0] == "projection":
        return "", projection_name(path)
    return deeplab_v2_atp_names.published_name(path)
