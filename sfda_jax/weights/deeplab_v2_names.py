"""Published names of DeepLabV2-ResNet checkpoints (DT-ST, SND, Stable-ST)."""

import re

from sfda_jax.errors import CheckpointError

SECTIONS = {"feature_extractor": "backbone", "classifier": "head"}
"""Section of the file → our submodule."""

DROPPED = ("*fc.*", "*.num_batches_tracked", "*layer5*")
"""Names that published files may hold beside the network: never loaded."""

_NORM = {
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
_CONV = {"kernel": "weight", "bias": "bias"}


def published_name(path: tuple[str, ...]) -> tuple[str, str]:
    """Section and name in the file of one of our leaves.

    Args:
        path: keys from the top of `params` or `batch_stats`, for instance
            `("backbone", "layer1_0", "downsample_bn", "mean")`.
    """
    module, *layers, leaf = path
    if module == "head":
        index = layers[0].removeprefix("branch")
        return "classifier", f"conv2d_list.{index}.{_CONV[leaf]}"
    if module != "backbone":
        raise CheckpointError(f"{'/'.join(path)} is no part of DeepLabV2.")
    name = re.sub(r"^layer(\d)_(\d+)", r"layer\1.\2", ".".join(layers))
    name = name.replace("downsample_conv", "downsample.0")
    name = name.replace("downsample_bn", "downsample.1")
    leaves = _NORM if "bn" in layers[-1] else _CONV
    return "feature_extractor", f"backbone.{name}.{leaves[leaf]}"
