"""Published names of DeepLabV3+ checkpoints (BiSMAP): one flat state dict."""

from sfda_jax.errors import CheckpointError
from sfda_jax.weights.layouts.torchvision_resnet import CONV, NORM, layer_name

KIND = "deeplab_v3_plus"
"""The network it fills."""

SECTIONS = {"": ""}
"""Section of the file → our submodule."""

DROPPED = ("*fc.*", "*.num_batches_tracked")
"""Names that published files may hold beside the network: never loaded."""

_HEAD = {
    **{
        f"fuse.aspp.branch{index}.{ours}": f"aspp.aspp{index + 1}.{theirs}"
        for index in range(4)
        for ours, theirs in (("conv", "atrous_conv"), ("bn", "bn"))
    },
    "fuse.aspp.pool.conv": "aspp.global_avg_pool.1",
    "fuse.aspp.pool.bn": "aspp.global_avg_pool.2",
    "fuse.aspp.merge.conv": "aspp.conv1",
    "fuse.aspp.merge.bn": "aspp.bn1",
    "fuse.reduce_low.conv": "decoder.conv1",
    "fuse.reduce_low.bn": "decoder.bn1",
    "fuse.conv1.conv": "decoder.last_conv.0",
    "fuse.conv1.bn": "decoder.last_conv.1",
    "fuse.conv2.conv": "decoder.last_conv.3",
    "fuse.conv2.bn": "decoder.last_conv.4",
    "classifier": "decoder.last_conv.7",
}


def published_name(path: tuple[str, ...]) -> tuple[str, str]:
    """Section and name in the file of one of our leaves.

    Args:
        path: keys from the top of `params` or `batch_stats`, for instance
            `("head", "fuse", "aspp", "pool", "bn", "mean")`.
    """
    module, *layers, leaf = path
    if module == "head":
        leaf = (NORM if layers[-1] == "bn" else CONV)[leaf]
        return "", f"{_HEAD['.'.join(layers)]}.{leaf}"
    if module != "backbone":
        raise CheckpointError(f"{'/'.join(path)} is no part of DeepLabV3+.")
    return "", f"backbone.{layer_name((*layers, leaf))}"
