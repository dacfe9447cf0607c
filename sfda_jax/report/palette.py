"""Colours of classes and of confidence."""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float, Integer, UInt8

from sfda_jax.tasks import CLASS_SPACES, ClassSpace
from sfda_jax.types import IGNORE

IGNORE_COLOR = (206, 202, 194)
"""RGB of pixels without a class: sand grey, far from every class of every palette."""

_VIRIDIS = cv2.applyColorMap(
    np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_VIRIDIS
)[:, 0, ::-1]


def colorize(
    labels: Integer[np.ndarray, "h w"], classes: ClassSpace
) -> UInt8[np.ndarray, "h w 3"]:
    """RGB of train ids; `IGNORE` and unknown ids get `IGNORE_COLOR`."""
    table = np.tile(np.array(IGNORE_COLOR, np.uint8), (IGNORE + 1, 1))
    table[: classes.num_classes] = classes.palette
    return table[np.clip(labels, 0, IGNORE)]


def overlay(
    image: UInt8[np.ndarray, "h w 3"],
    labels: Integer[np.ndarray, "h w"],
    classes: ClassSpace,
    *,
    weight: float = 0.55,
) -> UInt8[np.ndarray, "h w 3"]:
    """An image under its class colours, and `IGNORE_COLOR` where it has no class.

    Args:
        image: RGB.
        labels: train ids.
        classes: names and palette.
        weight: of the colours, in [0, 1].
    """
    mixed = (1 - weight) * image + weight * colorize(labels, classes)
    return np.rint(mixed).astype(np.uint8)


def colorize_confidence(
    confidence: Float[np.ndarray, "h w"],
) -> UInt8[np.ndarray, "h w 3"]:
    """RGB of values in [0, 1] on the viridis scale, which grey printing keeps."""
    levels = np.rint(np.nan_to_num(confidence).clip(0, 1) * 255).astype(np.uint8)
    return _VIRIDIS[levels]


def class_space_of(names: Sequence[str]) -> ClassSpace | None:
    """The class space with exactly these classes, for its colours and subsets."""
    spaces = CLASS_SPACES.values()
    return next((s for s in spaces if sorted(s.names) == sorted(names)), None)


def hex_color(space: ClassSpace, name: str) -> str:
    """A class's colour as HTML writes it."""
    return "#" + bytes(space.palette[space.names.index(name)].tolist()).hex()
