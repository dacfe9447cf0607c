"""Published names of IAST's discriminator, in its warm-up checkpoints."""

from sfda_jax.weights.layouts.torchvision_resnet import CONV

KIND = "discriminator"
"""The network it fills."""

SECTIONS = {"": ""}
"""Section of the file → our submodule."""

DROPPED = ("backbone.*", "decoder.*")
"""Names that published files hold beside the network: never loaded."""


def published_name(path: tuple[str, ...]) -> tuple[str, str]:
    """Section and name in the file of one of our leaves.

    Args:
        path: keys from the top of `params`, for instance `("conv1", "kernel")`.
    """
    layer, leaf = path
    return "", f"discriminators.Origin-Predictor.{layer}.{CONV[leaf]}"
