"""Which parameters a published optimiser treats in their own way, by their path."""


def rate_and_decay(
    path: tuple[str, ...], *, head_rate: float = 10.0, norm_decay: float = 0.0
) -> tuple[float, float]:
    """Multipliers of learning rate and weight decay, as ATP, SePiCo and DAFormer group.

    Heads, the projection among them, learn faster, their BatchNorm and biases too;
    LayerNorm is not decayed, other biases are (section 2.5 of ATP's specification).
    The published rule goes by substrings of names: `head`, then `norm`; so BatchNorm,
    which has none of them in its name, is decayed in a ResNet as well.

    Args:
        path: keys from the top of `params`.
        head_rate: of all but the backbone.
        norm_decay: of the backbone's LayerNorm.

    Returns:
        Learning-rate multiplier and weight-decay multiplier.

    Example:
        >>> rate_and_decay(("backbone", "stage1_0", "norm1", "scale"))
        (1.0, 0.0)
        >>> rate_and_decay(("head", "fuse", "bottleneck", "bn", "scale"))
        (10.0, 1.0)
    """
    if path[0] != "backbone":
        return head_rate, 1.0
    if any(layer.startswith("norm") for layer in path):
        return 1.0, norm_decay
    return 1.0, 1.0


def sgd_visits(path: tuple[str, ...]) -> int:
    """How often CRST's optimiser updates a parameter in one step.

    It lists the parameters of every module of the backbone, nested ones included, so
    that a parameter comes once per module around it (section 7.2 of CRST's
    specification): once in the stem, three times in a block, four times in a shortcut.

    Args:
        path: keys from the top of `params`.

    Example:
        >>> sgd_visits(("backbone", "layer3_7", "conv2", "kernel"))
        3
        >>> sgd_visits(("head", "branch0", "bias"))
        1
    """
    if path[0] != "backbone" or not path[1].startswith("layer"):
        return 1
    return 4 if path[2].startswith("downsample") else 3


def cbst_rate_and_decay(path: tuple[str, ...]) -> tuple[float, float]:
    """Multipliers of learning rate and weight decay in CBST: biases learn faster.

    BatchNorm's shift is a bias, its scale is not (section 7.1 of CBST's specification).

    Args:
        path: keys from the top of `params`.

    Returns:
        Learning-rate multiplier and weight-decay multiplier.

    Example:
        >>> cbst_rate_and_decay(("backbone", "layer5_0", "bn2", "bias"))
        (2.0, 0.0)
    """
    return (2.0, 0.0) if path[-1] == "bias" else (1.0, 1.0)
