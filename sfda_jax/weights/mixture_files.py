"""Prototypes on disk: one file of ours, or BiSMAP's folder of PyTorch files.

The published layout (its specification, section 2.3) has one file per class,
`{class}_gmm.pth`; a class without a file has no mixture.
"""

import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from sfda_jax.errors import CheckpointError
from sfda_jax.pseudo_labels.gaussian_mixtures import Mixture, Mixtures, stack_mixtures
from sfda_jax.weights.torch_file import read_torch_file, write_torch_file

SUFFIX = ".npz"
"""Of our file; a path that ends otherwise is a published folder."""

_NAMES = ("mu", "var", "pi")
_PUBLISHED = "_gmm.pth"
_DAMAGE = (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile)
_AGAIN = "Copy it again, or fit the mixtures anew."


def write_mixtures(
    path: pathlib.Path, mixtures: Mixtures, *, eps: float = 1e-6
) -> None:
    """Writes prototypes; an interrupted write leaves no file of its own.

    Args:
        path: ends in `.npz` for our file, anything else is a folder of published files.
        mixtures: of all classes.
        eps: of the fit; the published files name it.

    Raises:
        CheckpointError: the disk refuses, or the folder holds mixtures already.
    """
    arrays = {name: np.asarray(getattr(mixtures, name)) for name in _NAMES}
    valid = np.asarray(mixtures.valid)
    try:
        if path.suffix == SUFFIX:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(path.name + ".partial")
            with open(partial, "wb") as file:
                np.savez(file, **arrays, valid=valid)
            partial.replace(path)
            return
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be written: {error.strerror or error}.",
            hint="Free disk space, or name another place.",
        ) from error
    if _published_files(path):
        raise CheckpointError(
            f"{path} holds prototypes already: a class without a mixture would keep "
            "its old one.",
            hint="Name another folder, or delete this one.",
        )
    for index in np.flatnonzero(valid):
        tree = published_tree({name: arrays[name][index] for name in _NAMES}, eps=eps)
        write_torch_file(path / f"{index}{_PUBLISHED}", tree)


def published_tree(mixture: Mapping[str, np.ndarray], *, eps: float) -> dict[str, Any]:
    """What the published file of one class holds.

    Args:
        mixture: `mu` and `var` [K,D], `pi` [K].
        eps: of the fit.
    """
    num_components, num_dims = mixture["mu"].shape
    state = {
        "mu": mixture["mu"][None],
        "var": mixture["var"][None],
        "pi": mixture["pi"][None, :, None],
    }
    return {
        "n_components": num_components,
        "n_features": num_dims,
        "eps": eps,
        "params_fitted": True,
        "state_dict": {name: value.astype(np.float32) for name, value in state.items()},
    }


def read_mixtures(path: pathlib.Path, num_classes: int) -> Mixtures:
    """Prototypes from either kind of file.

    Args:
        path: our file, or a folder of published ones. Nothing in them is run.
        num_classes: C.

    Raises:
        CheckpointError: missing, damaged, or of other classes.
    """
    if path.is_dir():
        return _read_folder(path, num_classes)
    if not path.is_file():
        raise CheckpointError(
            f"Prototypes {path} do not exist.",
            hint=f"Give a {SUFFIX} file of this package or a folder of "
            f"0{_PUBLISHED}, 1{_PUBLISHED}, ...",
        )
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in (*_NAMES, "valid")}
    except _DAMAGE as error:
        raise CheckpointError(
            f"{path} is no readable file of prototypes ({error}).", hint=_AGAIN
        ) from error
    count, rank = len(arrays["mu"]), arrays["mu"].ndim
    if count != num_classes or rank != 3 or arrays["valid"].shape != (count,):
        raise CheckpointError(
            f"{path} holds mu of shape {arrays['mu'].shape}; expected one mixture for "
            f"each of {num_classes} classes.",
            hint="Prototypes belong to one class space: fit them for this task.",
        )
    found = []
    for index, kept in enumerate(arrays["valid"]):
        one = {name: arrays[name][index] for name in _NAMES}
        found.append(_mixture(f"{path}, class {index}", one) if kept else None)
    return stack_mixtures(found, *arrays["mu"].shape[1:])


def _published_files(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """What stands before `_gmm.pth`, and the file."""
    return {p.name.removesuffix(_PUBLISHED): p for p in folder.glob(f"*{_PUBLISHED}")}


def _read_folder(folder: pathlib.Path, num_classes: int) -> Mixtures:
    files = _published_files(folder)
    known = [str(index) for index in range(num_classes)]
    strangers = sorted(set(files) - set(known))
    if strangers or not files:
        names = ", ".join(name + _PUBLISHED for name in strangers[:3])
        raise CheckpointError(
            f"{folder} holds {names or 'no ' + _PUBLISHED + ' files'}; expected files "
            f"from 0{_PUBLISHED} to {num_classes - 1}{_PUBLISHED}.",
            hint="Name each file after its train id.",
        )
    found = [_read_published(files[k]) if k in files else None for k in known]
    shapes = {mixture.mu.shape for mixture in found if mixture is not None}
    if len(shapes) > 1:
        raise CheckpointError(
            f"{folder}: mixtures of different shapes {sorted(shapes)}.", hint=_AGAIN
        )
    return stack_mixtures(found, *shapes.pop())


def _read_published(path: pathlib.Path) -> Mixture:
    tree = read_torch_file(path)
    try:
        state = tree["state_dict"]
        arrays = {name: np.asarray(state[name])[0] for name in _NAMES}
        arrays["pi"] = arrays["pi"][:, 0]
    except (TypeError, KeyError, IndexError) as error:
        raise CheckpointError(
            f"{path} is no published mixture: a state_dict of mu, var [1,K,D] and pi "
            "[1,K,1] is missing.",
            hint=_AGAIN,
        ) from error
    return _mixture(str(path), arrays)


def _mixture(where: str, arrays: Mapping[str, np.ndarray]) -> Mixture:
    """The arrays, checked."""
    mu, var, pi = (arrays[name].astype(np.float32) for name in _NAMES)
    if mu.ndim != 2 or var.shape != mu.shape or pi.shape != mu.shape[:1]:
        raise CheckpointError(
            f"{where}: shapes mu {mu.shape}, var {var.shape}, pi {pi.shape}; expected "
            "(K, D), (K, D), (K).",
            hint="Only mixtures of diagonal covariance are prototypes.",
        )
    finite = all(np.isfinite(array).all() for array in (mu, var, pi))
    if not finite or (var <= 0).any() or (pi <= 0).any():
        raise CheckpointError(
            f"{where}: NaN, infinite or non-positive values in the mixture.",
            hint=_AGAIN,
        )
    return Mixture(pi=jnp.asarray(pi), mu=jnp.asarray(mu), var=jnp.asarray(var))
