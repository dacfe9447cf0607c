"""Published names of Mix Transformers: the ImageNet files `mit_b0.pth` … `mit_b5.pth`.

The networks built on them read these files too (`backbone_only`).
"""

import re

from sfda_jax.weights.layouts.torchvision_resnet import CONV, NORM

KIND = "mix_transformer"
"""The network it fills."""

SECTIONS = {"": ""}
"""Section of the file → our submodule."""

DROPPED = ("head.*",)
"""Names that published files may hold beside the network: never loaded."""

LEAF = {**CONV, **NORM}
"""Our leaf → theirs, of any layer."""


def encoder_name(path: tuple[str, ...]) -> str:
    """Their name of one of the encoder's leaves.

    Args:
        path: keys below the encoder.

    Example:
        >>> encoder_name(("stage3_17", "mlp", "dwconv", "kernel"))
        'block3.17.mlp.dwconv.dwconv.weight'
    """
    *layers, leaf = path
    name = re.sub(r"^stage(\d)_(\d+)", r"block\1.\2", ".".join(layers))
    return f"{name.replace('dwconv', 'dwconv.dwconv')}.{LEAF[leaf]}"


def published_name(path: tuple[str, ...]) -> tuple[str, str]:
    """Section and name in the file of one of our leaves.

    Args:
        path: keys from the top of `params`, for instance
            `("patch_embed1", "proj", "kernel")`.
    """
    return "", encoder_name(path)
