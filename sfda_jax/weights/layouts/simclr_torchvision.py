"""Names of SimCLRv2 R101 1x sk0 as torchvision would have them, one flat state dict.

BiSMAP's file is probably of this layout. Selective kernels have no names in it.
"""

from sfda_jax.errors import CheckpointError
from sfda_jax.weights.layouts.torchvision_resnet import CONV, layer_name

KIND = "simclr"
"""The network it fills."""

SECTIONS = {"": ""}
"""Section of the file → our submodule."""

DROPPED = ("*.num_batches_tracked",)
"""Names that published files may hold beside the network: never loaded."""


def published_name(path: tuple[str, ...]) -> tuple[str, str]:
    """Section and name in the file of one of our leaves.

    Args:
        path: keys from the top of `params` or `batch_stats`, for instance
            `("backbone", "layer1_0", "downsample_bn", "mean")`.
    """
    module, *below = path
    if module == "head":
        return "", f"fc.{CONV[below[-1]]}"
    if module != "backbone":
        raise CheckpointError(f"{'/'.join(path)} is no part of SimCLR.")
    return "", layer_name(tuple(below))
