"""Which label map a training image comes with: its own, or a stored pseudo-label."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float32, Int, UInt8

from sfda_jax.data import image_ops
from sfda_jax.errors import DataError
from sfda_jax.types import IGNORE, Record

ReadLabels = Callable[[str], np.ndarray]
"""Example id → its stored map; pickles, e.g. `functools.partial(store.read, "labels")`.
"""


def is_target(record: Record) -> bool:
    """Whether a record is of the target domain: it says so, or has no label."""
    return record.get("domain") == "target" or "label" not in record


def training_labels(
    record: Record, pseudo: ReadLabels | None
) -> UInt8[np.ndarray, "h w"]:
    """Train ids of a record at its image's size, 255 where no loss counts.

    Source records bring their label, target records have a pseudo-label. A map of
    another size is resized as published for pseudo-labels: nearest, from pixel
    floor((i + 0.5) * n_in / n_out).

    Args:
        record: `image`, `id`, and `label` or `domain`.
        pseudo: where target records find their labels.

    Raises:
        DataError: a target record without `pseudo`.
    """
    if not is_target(record):
        labels = record["label"]
    elif pseudo is None:
        raise DataError(
            "a target image has no label, and the transform no pseudo-labels.",
            hint="Give the transform `pseudo`, or read a source split.",
        )
    else:
        labels = pseudo(record["id"])
    return image_ops.resize(labels, record["image"].shape[:2], "nearest")


def one_hot(
    labels: UInt8[np.ndarray, "h w"], num_classes: int
) -> Float32[np.ndarray, "h w {num_classes}"]:
    """Class weights of hard labels, all 0 where a pixel is ignored."""
    weights = np.zeros((256, num_classes), np.float32)
    weights[:num_classes] = np.eye(num_classes, dtype=np.float32)
    return weights[labels]


def soft_labels(
    record: Record,
    read: ReadLabels,
    labels: UInt8[np.ndarray, "h w"],
    *,
    num_classes: int,
    crop: Callable[[np.ndarray], np.ndarray],
) -> Float32[np.ndarray, "h w {num_classes}"]:
    """Class weights of a training sample, all 0 where its hard labels are ignored.

    Args:
        record: one-hot labels if it is of the source.
        read: stored weights [H,W,C] of a target record.
        labels: of the sample, after its crop.
        num_classes: C.
        crop: what the sample's decisions make of stored weights, float32[h,w,C].

    Raises:
        DataError: the stored weights are of other classes.
    """
    if not is_target(record):
        return one_hot(labels, num_classes)
    weights = read(record["id"])
    if weights.ndim != 3 or weights.shape[2] != num_classes:
        raise DataError(
            f"soft labels of shape {weights.shape}, expected [H, W, {num_classes}].",
            hint="Delete the round's folder and run the same command to make them "
            "again.",
        )
    return crop(weights) * (labels != IGNORE)[..., None].astype(np.float32)


def nearest_rows(have: int, want: int) -> Int[np.ndarray, "{want}"]:
    """Source row of each row of a nearest resize: floor((i + 0.5) * have / want)."""
    return ((2 * np.arange(want) + 1) * have) // (2 * want)
