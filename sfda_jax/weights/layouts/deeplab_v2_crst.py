"""Published names of DeepLabV2-ResNet checkpoints of CRST: one flat state dict."""

from sfda_jax.errors import CheckpointError
from sfda_jax.weights.layouts.deeplab_v2 import branch_name
from sfda_jax.weights.layouts.torchvision_resnet import layer_name

KIND = "deeplab_v2"
"""The network it fills."""

SECTIONS = {"": ""}
"""Section of the file → our submodule."""

DROPPED = ("fc.*", "*.num_batches_tracked")
"""Names that published files may hold beside the network: never loaded."""


def published_name(path: tuple[str, ...]) -> tuple[str, str]:
    """Section and name in the file of one of our leaves.

    Args:
        path: keys from the top of `params` or `batch_stats`, for instance
            `("head", "branch0", "kernel")`.
    """
    module, *below = path
    if module == "head":
        return "", branch_name("layer5.conv2d_list", path)
    if module != "backbone":
        raise CheckpointError(f"{'/'.join(path)} is no part of DeepLabV2.")
    return "", layer_name(tuple(below))
