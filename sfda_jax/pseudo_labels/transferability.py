"""Which pixels of a source image resemble the target: BiSMAP's weight maps (STM).

Section 5.1 of its specification. Features of a network that is not trained here are
compared with cluster centres of the target's; the distance of each cell of a source
image, relative to the mean distance, gives its weight in the source's loss, and classes
that are hard by nature get a boost.
"""

from collections.abc import Mapping
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Float64, UInt8

from sfda_jax.data.image_ops import resize
from sfda_jax.data.interpolation import torch_nearest
from sfda_jax.errors import ConfigError
from sfda_jax.registry import check_choice
from sfda_jax.tasks import CLASS_SPACES, ClassSpace
from sfda_jax.types import IGNORE

CLASS_ENTROPY: Mapping[str, tuple[float, ...]] = {
    "gta5": (
        *(0.1502, 0.2935, 0.1362, 0.4436, 0.4393, 0.2795, 0.3139, 0.3106, 0.1068),
        *(0.3195, 0.0719, 0.2364, 0.4754, 0.0986, 0.3673, 0.4127, 0.4826, 0.5645),
        0.6694,
    ),
    "synthia": (
        *(0.1039, 0.1333, 0.0960, 0.4322, 0.4646, 0.2801, 0.3994, 0.3480, 0.1437),
        *(0.0, 0.1032, 0.2556, 0.4076, 0.1399, 0.0, 0.3501, 0.0, 0.5117, 0.4416),
    ),
}
"""How hard each of the 19 classes is, by source: constants of the published code.

Classes that SYNTHIA lacks have 0, and so become its least (a quirk that is kept).
"""

Mean = Literal["ema", "global"]


def class_boost(entropies: Float64[np.ndarray, "c"]) -> Float64[np.ndarray, "c"]:
    """What is added to the weight of each class: its entropy, scaled to 0 to 1.

    Example:
        >>> class_boost(np.array([0.25, 0.75, 0.5]))
        array([0. , 1. , 0.5])
    """
    low, high = entropies.min(), entropies.max()
    return (entropies - low) / (high - low)


def published_boost(source: str, classes: ClassSpace) -> Float64[np.ndarray, "c"]:
    """The boost of a class space's classes, by their names; `none` boosts nothing.

    Args:
        source: of `CLASS_ENTROPY`, or `none`.
        classes: whose names are those of Cityscapes.

    Raises:
        ConfigError: an unknown source, or a class that has no published entropy.
    """
    check_choice("boost", source, ("none", *CLASS_ENTROPY))
    if source == "none":
        return np.zeros(classes.num_classes)
    names = CLASS_SPACES["cityscapes19"].names
    unknown = [name for name in classes.names if name not in names]
    if unknown:
        raise ConfigError(
            f"boost {source!r} has no entropy of class {unknown[0]!r} of "
            f"{classes.name}; it knows: {', '.join(names)}.",
            hint="Set boost to none.",
        )
    boost = class_boost(np.asarray(CLASS_ENTROPY[source]))
    return boost[[names.index(name) for name in classes.names]]


def pool_columns(
    features: Float[Array, "b h w d"],
) -> Float[Array, "b h half d"]:
    """The mean of every two neighbouring columns; an odd last one is left out."""
    pairs = features.shape[2] // 2
    even, odd = (features[:, :, i : 2 * pairs : 2] for i in (0, 1))
    return (even + odd) / 2


def nearest_distances(
    features: Float[Array, "b h w d"], centres: Float[Array, "k d"]
) -> Float32[Array, "b h w"]:
    """The Euclidean distance of each cell to the centre nearest to it.

    Through differences, not a product of matrices: close distances keep their digits.
    """
    differences = features[..., None, :] - centres.reshape(1, 1, 1, *centres.shape)
    squares = jnp.square(differences.astype(jnp.float32)).sum(axis=-1)
    return jnp.sqrt(squares.min(axis=-1))


def mean_distances(
    distances: Float32[np.ndarray, "n h w"], *, mean: Mean = "ema", decay: float = 0.99
) -> Float32[np.ndarray, "n"]:
    """The distance at which a cell of each image weighs one half.

    Args:
        distances: of all source images, in order.
        mean: `ema` as published: an average that moves from image to image, each moving
            it before it is weighed, so that the order matters; the first is taken as it
            is. `global`: one mean for all.
        decay: weight of the past under `ema`.
    """
    own = distances.mean(axis=(1, 2), dtype=np.float32)
    if mean == "global":
        return np.full_like(own, own.mean(dtype=np.float64))
    past, gain = np.float32(decay), np.float32(1 - decay)
    moved = own.copy()
    for index in range(1, len(own)):
        moved[index] = past * moved[index - 1] + gain * own[index]
    return moved


def cell_weights(
    distances: Float32[np.ndarray, "n h w"], means: Float32[np.ndarray, "n"]
) -> Float32[np.ndarray, "n h w"]:
    """`2^-(distance / mean)^2`: 1 on a centre, one half at the mean distance."""
    scale = np.where(means > 0, means, 1)[:, None, None]  # all 0: all on a centre
    return np.exp(-np.square(distances) * np.float32(np.log(2)) / np.square(scale))


def weight_map(
    weights: Float32[np.ndarray, "h w"],
    labels: UInt8[np.ndarray, "_h _w"],
    boost: Float64[np.ndarray, "c"],
    *,
    size: tuple[int, int],
) -> UInt8[np.ndarray, "H W"]:
    """An image's weight of every pixel, in steps of 1/255, rounded down.

    Args:
        weights: of its cells.
        labels: train ids; ignored pixels get no boost.
        boost: added to the weight of each class, before it is cut off at 1.
        size: (height, width) of the map. Labels are brought to it as Pillow, cells as
            PyTorch does.
    """
    places = [
        torch_nearest(have, want)
        for have, want in zip(weights.shape, size, strict=True)
    ]
    large = weights[np.ix_(*places)]
    added = np.zeros(IGNORE + 1, np.float32)
    added[: len(boost)] = boost
    raised = large + added[resize(labels, size, "nearest")]
    return (np.clip(raised, 0, 1) * np.float32(255)).astype(np.uint8)
