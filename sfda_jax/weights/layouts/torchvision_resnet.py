"""Names of a ResNet's arrays as torchvision has them, and with it everybody else."""

import re

NORM = {
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
"""Our leaf → theirs, of BatchNorm."""

CONV = {"kernel": "weight", "bias": "bias"}
"""Our leaf → theirs, of convolutions and matrices."""

# mmsegmentation numbers the layers of a deep stem through, ReLUs too.
_DEEP_STEM = {
    "conv1": "stem.0",
    "bn1": "stem.1",
    "conv2": "stem.3",
    "bn2": "stem.4",
    "conv3": "stem.6",
    "bn3": "stem.7",
}


def layer_name(path: tuple[str, ...], *, deep_stem: bool = False) -> str:
    """Their name of one of a ResNet's leaves.

    Args:
        path: keys below the ResNet, for instance `("layer1_0", "bn1", "mean")`.
        deep_stem: the stem has three convolutions.

    Example:
        >>> layer_name(("layer1_0", "downsample_bn", "mean"))
        'layer1.0.downsample.1.running_mean'
    """
    *layers, leaf = path
    leaf = (NORM if "bn" in layers[-1] else CONV)[leaf]
    if deep_stem and len(layers) == 1:
        return f"{_DEEP_STEM[layers[0]]}.{leaf}"
    name = re.sub(r"^layer(\d)_(\d+)", r"layer\1.\2", ".".join(layers))
    name = name.replace("downsample_conv", "downsample.0")
    return f"{name.replace('downsample_bn', 'downsample.1')}.{leaf}"
