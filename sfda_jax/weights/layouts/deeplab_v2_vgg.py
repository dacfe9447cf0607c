"""Published names of DeepLabV2-VGG16 checkpoints (DT-ST, GTA5 → BDD100K)."""

from sfda_jax.errors import CheckpointError

KIND = "deeplab_v2_vgg"
"""The network it fills."""

SECTIONS = {"feature_extractor": "backbone", "classifier": "head"}
"""Section of the file → our submodule."""

DROPPED = ()
"""Names that published files may hold beside the network: never loaded."""

_CONV = {"kernel": "weight", "bias": "bias"}

# Position of every convolution in the published `Sequential`, which counts ReLUs and
# the three remaining poolings too.
_FIRST_OF_GROUP = {1: 0, 2: 5, 3: 10, 4: 17, 5: 23}
_FULLY_CONNECTED = {"fc6": 29, "fc7": 31}


def published_name(path: tuple[str, ...]) -> tuple[str, str]:
    """Section and name in the file of one of our leaves.

    Args:
        path: keys from the top of `params`, for instance
            `("backbone", "conv3_1", "kernel")`.
    """
    module, layer, leaf = path
    if module == "head":
        index = layer.removeprefix("branch")
        return "classifier", f"conv2d_list.{index}.{_CONV[leaf]}"
    if module != "backbone":
        raise CheckpointError(f"{'/'.join(path)} is no part of DeepLabV2-VGG16.")
    if layer in _FULLY_CONNECTED:
        index = _FULLY_CONNECTED[layer]
    else:
        group, block = layer.removeprefix("conv").split("_")
        index = _FIRST_OF_GROUP[int(group)] + 2 * int(block)
    return "feature_extractor", f"backbone.{index}.{_CONV[leaf]}"
