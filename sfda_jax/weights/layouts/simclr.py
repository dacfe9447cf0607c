"""Published names of SimCLRv2 checkpoints converted to PyTorch (BiSMAP).

R152 1x sk1 and R101 1x sk0 share the layout. It numbers the layers of a block, so that
the last convolution has one number with a selective kernel and another one without;
our names differ there too.
"""

from sfda_jax.errors import CheckpointError
from sfda_jax.weights.layouts.torchvision_resnet import CONV, NORM

KIND = "simclr"
"""The network it fills."""

SECTIONS = {"resnet": ""}
"""Section of the file → our submodule; the projection head beside it is not used."""

DROPPED = ("*.num_batches_tracked",)
"""Names that published files may hold beside the network: never loaded."""

_LAYERS = {
    "conv1": "net.0",
    "bn1": "net.1.0",
    "conv2": "net.2",
    "bn2": "net.3.0",
    "conv3": "net.4",
    "bn3": "net.5.0",
    "downsample_conv": "projection.shortcut",
    "downsample_bn": "projection.bn.0",
    # With a selective kernel:
    "select.conv": "net.2.main_conv.0",
    "select.bn": "net.2.main_conv.1.0",
    "select.squeeze_conv": "net.2.mixing_conv.0",
    "select.squeeze_bn": "net.2.mixing_conv.1.0",
    "select.expand_conv": "net.2.mixing_conv.2",
    "output_conv": "net.3",
    "output_bn": "net.4.0",
    "projection.conv": "projection.shortcut.2",
    "projection.bn": "projection.bn.0",
}


def published_name(path: tuple[str, ...]) -> tuple[str, str]:
    """Section and name in the file of one of our leaves.

    Args:
        path: keys from the top of `params` or `batch_stats`, for instance
            `("backbone", "layer1_0", "select", "squeeze_bn", "mean")`.
    """
    module, *layers, leaf = path
    ending = (NORM if "bn" in path[-2] else CONV)[leaf]
    if module == "head":
        return "resnet", f"fc.{ending}"
    if module != "backbone":
        raise CheckpointError(f"{'/'.join(path)} is no part of SimCLR.")
    if len(layers) == 1:
        layer, index = layers[0][:-1], 2 * int(layers[0][-1])
        stem = {"conv": f"net.0.{index - 2}", "bn": f"net.0.{index - 1}.0"}
        return "resnet", f"{stem[layer]}.{ending}"
    stage, block = layers[0].removeprefix("layer").split("_")
    layer = _LAYERS[".".join(layers[1:])]
    return "resnet", f"net.{stage}.blocks.{block}.{layer}.{ending}"
