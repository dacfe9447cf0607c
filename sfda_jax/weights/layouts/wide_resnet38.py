"""Published names of ResNet-38 A1 checkpoints (CBST), MXNet's `.params` files."""

from sfda_jax.errors import CheckpointError

KIND = "wide_resnet38"
"""The network that these files fill."""

SECTIONS = {"arg": "", "aux": ""}
"""Section of the file → our submodule; both hold leaves of the whole network."""

DROPPED = ("linear1000_*",)
"""Names that published files may hold beside the network: ImageNet's classifier."""

_NORM = {
    "scale": ("arg", "gamma"),
    "bias": ("arg", "beta"),
    "mean": ("aux", "moving_mean"),
    "var": ("aux", "moving_var"),
}
_CONV = {"kernel": ("arg", "weight"), "bias": ("arg", "bias")}
_HEAD = {"conv1": "conv6a", "classifier": "linear{outputs}"}


def published_name(path: tuple[str, ...]) -> tuple[str, str]:
    """Section and name in the file of one of our leaves.

    The last layer's name contains the number of classes: `{outputs}` stands for the
    last axis of our leaf.

    Args:
        path: keys from the top of `params` or `batch_stats`, for instance
            `("backbone", "layer4_3", "bn2", "mean")`.
    """
    module, *layers, leaf = path
    if module == "head":
        section, ending = _CONV[leaf]
        return section, f"{_HEAD[layers[0]]}_{ending}"
    if module != "backbone":
        raise CheckpointError(f"{'/'.join(path)} is no part of ResNet-38.")
    is_norm = layers[-1].startswith("bn")
    section, ending = (_NORM if is_norm else _CONV)[leaf]
    if len(layers) == 1:
        name = layers[0] if is_norm else f"{layers[0]}a"
        return section, f"{name}_{ending}"
    level, block = layers[0].removeprefix("layer").split("_")
    unit = f"{level}a" if block == "0" else f"{level}b{block}"
    kind = "bn" if is_norm else "res"
    return section, f"{kind}{unit}_{_branch(layers[1])}_{ending}"


def _branch(layer: str) -> str:
    if layer == "downsample_conv":
        return "branch1"
    position = int(layer[-1])
    return "branch2a" if position == 1 else f"branch2b{position - 1}"
