"""Where in the image which class lies: the spatial priors of CBST-SP.

A prior multiplies the class scores that pseudo-labels are chosen by (cbst_crst.md,
section 4.5); neither the training loss nor the evaluation sees it.
"""

import pathlib
import zipfile
import zlib
from collections.abc import Iterable, Mapping

import cv2
import numpy as np
from jaxtyping import Float32, Shaped, UInt32

from sfda_jax.data.statistics import PRIOR_KERNEL, smoothed_frequencies, spatial_prior
from sfda_jax.errors import ConfigError, DataError

# What reading a file that is cut off or altered may raise.
_DAMAGE = (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error)

SUFFIXES = (".mat", ".npy", ".npz")
ARRAY_NAME = "prior_array"
"""What the published prior file calls its array."""


def prior_of_counts(
    counts: UInt32[np.ndarray, "c h w"],
    num_images: int,
    *,
    kernel: int = PRIOR_KERNEL,
    normalise: str = "class",
) -> Float32[np.ndarray, "c h w"]:
    """The prior of the label maps that were counted.

    Args:
        counts: in how many of them each class lies at each pixel.
        num_images: how many were counted.
        kernel: side of the Gaussian that smooths the counts.
        normalise: sums to 1 over the pixels of a `class`, or the classes of a `pixel`.
    """
    smoothed = smoothed_frequencies(counts, num_images, kernel=kernel)
    return spatial_prior(smoothed, normalise=normalise).astype(np.float32)


def count_predictions(
    predictions: Iterable[Shaped[np.ndarray, "b h w"]], num_classes: int
) -> tuple[UInt32[np.ndarray, "c h w"], int]:
    """In how many predicted maps each class lies at each pixel, and how many maps.

    Args:
        predictions: batches of class indices, of one size.
        num_classes: C.
    """
    counts, num_images = None, 0
    for batch in predictions:
        if counts is None:
            counts = np.zeros((num_classes, *batch.shape[1:]), np.uint32)
        for c in range(num_classes):
            counts[c] += (batch == c).sum(0, dtype=np.uint32)
        num_images += len(batch)
    if counts is None:
        raise DataError("A prior of no predictions: the target has no images.")
    return counts, num_images


def resize_prior(
    prior: Float32[np.ndarray, "c h w"], size: tuple[int, int]
) -> Float32[np.ndarray, "c H W"]:
    """The prior at another size, averaged where it shrinks, bilinear where it grows.

    What it sums to may change, by one factor for all classes: pseudo-labels do not.
    """
    if prior.shape[1:] == tuple(size):
        return prior
    shrinks = size[0] <= prior.shape[1] and size[1] <= prior.shape[2]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.stack([cv2.resize(p, size[::-1], interpolation=how) for p in prior])


def load_prior(path: str, num_classes: int) -> Float32[np.ndarray, "c h w"]:
    """A prior from a file, as it is: the published array may be a little below 0.

    Args:
        path: `.mat` (up to version 7), `.npy` or `.npz`; the array is the one called
            `prior_array`, or the only one.
        num_classes: C, of the task.

    Raises:
        ConfigError: another kind of file, or none.
        DataError: a damaged file, an array of another shape, NaN in it.
    """
    file = pathlib.Path(path)
    if file.suffix.lower() not in SUFFIXES:
        raise ConfigError(
            f"prior {path!r}: neither none, source, predictions nor a file of a prior.",
            hint=f"Files end in {', '.join(SUFFIXES)}.",
        )
    if not file.is_file():
        raise ConfigError(
            f"prior {path}: no such file.",
            hint="Set prior=source to make one of the source's labels.",
        )
    array = _only(path, _arrays(file))
    if array.ndim != 3 or len(array) != num_classes:
        raise DataError(
            f"{path}: the prior is of shape {array.shape}; expected "
            f"({num_classes}, height, width), one map for each class of the task.",
            hint="Transpose it, or name the classes it is of: --config.task.classes.",
        )
    array = array.astype(np.float32)
    if not np.isfinite(array).all():
        bad = [int(c) for c in np.flatnonzero(~np.isfinite(array).all((1, 2)))]
        raise DataError(
            f"{path}: NaN or infinite values in the prior, of classes {bad}.",
            hint="Set prior=source to make one of the source's labels.",
        )
    return array


def _arrays(file: pathlib.Path) -> Mapping[str, np.ndarray]:
    """Every array of the file, by name."""
    suffix = file.suffix.lower()
    try:
        if suffix == ".mat":
            return _matlab_arrays(file)
        loaded = np.load(file, allow_pickle=False)
        return {ARRAY_NAME: loaded} if suffix == ".npy" else dict(loaded)
    except NotImplementedError as error:
        raise DataError(
            f"{file} is a MATLAB file of version 7.3 (HDF5), which is not read here.",
            hint=f"In MATLAB: load('{file.name}'); save('prior_v7.mat', "
            f"'{ARRAY_NAME}', '-v7'). In Python, with h5py, which reverses the axes: "
            f"np.save('prior.npy', h5py.File('{file.name}')['{ARRAY_NAME}'][()].T)",
        ) from error
    except _DAMAGE as error:
        raise DataError(
            f"{file} cannot be read as {suffix} ({error}).",
            hint="Copy it again; it may be cut off.",
        ) from error


def _matlab_arrays(file: pathlib.Path) -> Mapping[str, np.ndarray]:
    import scipy.io  # only this reader needs it

    try:
        stored = scipy.io.loadmat(file)
    except (scipy.io.matlab.MatReadError, LookupError, TypeError) as error:
        raise ValueError(str(error)) from error
    return {k: v for k, v in stored.items() if not k.startswith("__")}


def _only(path: str, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    if ARRAY_NAME in arrays:
        return arrays[ARRAY_NAME]
    if len(arrays) == 1:
        return next(iter(arrays.values()))
    raise DataError(
        f"{path} holds the arrays {', '.join(sorted(arrays)) or '(none)'}; expected "
        f"{ARRAY_NAME}.",
        hint=f"Rename the prior's array to {ARRAY_NAME}, or store it alone.",
    )
