"""Published names of DeepLabV2-ResNet checkpoints of ATP (mmsegmentation's)."""

from sfda_jax.errors import CheckpointError
from sfda_jax.weights.layouts.torchvision_resnet import CONV, layer_name

KIND = "deeplab_v2"
"""The network it fills."""

SECTIONS = {"": ""}
"""Section of the file → our submodule."""

DROPPED = ("*fc.*", "*.num_batches_tracked", "auxiliary_head.*")
"""Names that published files may hold beside the network: never loaded."""


def published_name(path: tuple[str, ...]) -> tuple[str, str]:
    """Section and name in the file of one of our leaves.

    Args:
        path: keys from the top of `params` or `batch_stats`, for instance
            `("head", "branch0", "kernel")`.
    """
    module, *below = path
    if module == "head":
        layer, leaf = below
        index = layer.removeprefix("branch")
        return "", f"decode_head.aspp_modules.{index}.conv.{CONV[leaf]}"
    if module != "backbone":
        raise CheckpointError(f"{'/'.join(path)} is no part of DeepLabV2.")
    return "", f"backbone.{layer_name(tuple(below), deep_stem=True)}"
