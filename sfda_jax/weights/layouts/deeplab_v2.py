"""Published names of DeepLabV2-ResNet checkpoints (DT-ST, SND, Stable-ST)."""

from sfda_jax.errors import CheckpointError
from sfda_jax.weights.layouts.torchvision_resnet import CONV, layer_name

KIND = "deeplab_v2"
"""The network it fills."""

SECTIONS = {"feature_extractor": "backbone", "classifier": "head"}
"""Section of the file → our submodule."""

DROPPED = ("*fc.*", "*.num_batches_tracked", "*layer5*")
"""Names that published files may hold beside the network: never loaded."""


def published_name(path: tuple[str, ...]) -> tuple[str, str]:
    """Section and name in the file of one of our leaves.

    Args:
        path: keys from the top of `params` or `batch_stats`, for instance
            `("backbone", "layer1_0", "downsample_bn", "mean")`.
    """
    module, *below = path
    if module == "head":
        return "classifier", branch_name("conv2d_list", path)
    if module != "backbone":
        raise CheckpointError(f"{'/'.join(path)} is no part of DeepLabV2.")
    return "feature_extractor", f"backbone.{layer_name(tuple(below))}"


def branch_name(branches: str, path: tuple[str, ...]) -> str:
    """Name of one of the head's leaves, in a list of branches called so.

    Args:
        branches: what the list is called.
        path: keys from the top, for instance `("head", "branch2", "bias")`.
    """
    _, layer, leaf = path
    return f"{branches}.{layer.removeprefix('branch')}.{CONV[leaf]}"
