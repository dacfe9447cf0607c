"""Any checkpoint file as one tree of arrays, told apart by content, not by name."""

import os
import pathlib
import re
import zipfile
from collections.abc import Mapping
from typing import Any

from sfda_jax.errors import CheckpointError
from sfda_jax.registry import closest
from sfda_jax.weights.mxnet_file import read_mxnet_file, write_mxnet_file
from sfda_jax.weights.orbax_folder import read_orbax_folder
from sfda_jax.weights.restricted_pickle import read_pickle_file
from sfda_jax.weights.safetensors_file import (
    read_safetensors_file,
    write_safetensors_file,
)
from sfda_jax.weights.torch_file import is_legacy, read_torch_file, write_torch_file

FILE_SUFFIXES = (".pth", ".pt", ".safetensors", ".params")
"""Names of files that `write_checkpoint` writes; anything else is an Orbax folder."""

_HEAD_BYTES = 1024
_AGAIN = "Download it again."
_MXNET_MAGIC = b"\x12\x01" + bytes(6)
_GIT_LFS = b"version https://git-lfs.github.com/spec/"
_OTHERS = {
    b"\x1f\x8b": ("compressed by gzip", "Unpack it: gunzip FILE."),
    b"\x89HDF": ("an HDF5 file", "Save the state dict as .pth or .safetensors."),
    b"\x93NUMPY": ("a single NumPy array", "Save all arrays as .safetensors."),
}


def read_checkpoint(path: str | os.PathLike[str]) -> Any:
    """The object in a checkpoint, arrays as NumPy arrays, mappings as dicts.

    Reads PyTorch files (zip and legacy), pickles of NumPy arrays, safetensors, MXNet's
    `.params` and Orbax folders. Nothing in the file is run.

    Args:
        path: file or folder.

    Raises:
        CheckpointError: missing, damaged, or something else (the message says what).
    """
    path = pathlib.Path(path)
    if path.is_dir():
        return read_orbax_folder(path)
    if not path.is_file():
        beside = [p.name for p in path.parent.glob("*")]
        raise CheckpointError(
            f"Checkpoint {path} does not exist.{closest(path.name, beside)}",
            hint="Check the path.",
        )
    with open(path, "rb") as file:
        head = file.read(_HEAD_BYTES)
    if head.startswith(b"PK\x03\x04"):
        _refuse_other_zips(path)
        return read_torch_file(path)
    if is_legacy(head):
        return read_torch_file(path)
    if head.startswith(_MXNET_MAGIC):
        return read_mxnet_file(path)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
        return _without_section(read_safetensors_file(path))
    if head[:1] == b"\x80" and head[1:2] <= b"\x05":
        return read_pickle_file(path)
    found, hint = _what_else(head, path.stat().st_size)
    raise CheckpointError(f"{path} is no checkpoint: it is {found}.", hint=hint)


def _without_section(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Names outside any section on top, as a PyTorch file would hold them."""
    sections = {name: arrays for name, arrays in tree.items() if name}
    return {**tree.get("", {}), **sections}


def _refuse_other_zips(path: pathlib.Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return  # damaged: the reader says so
    if not any(name.endswith("/data.pkl") for name in names):
        shown = ", ".join(names[:3])
        raise CheckpointError(
            f"{path} is no checkpoint: it is a zip archive of {shown or 'nothing'}.",
            hint="Unpack it and give one of its files.",
        )


def _what_else(head: bytes, size: int) -> tuple[str, str]:
    """What a file is instead of a checkpoint, and what mends it."""
    if not size:
        return "empty (0 bytes)", _AGAIN
    if head.startswith(_GIT_LFS):
        announced = re.search(rb"size (\d+)", head)
        stands = f" for {announced[1].decode()} bytes" if announced else ""
        return f"a Git LFS pointer{stands}, not the file itself", "Run: git lfs pull"
    for magic, answer in _OTHERS.items():
        if head.startswith(magic):
            return answer
    text = head.decode("utf-8", errors="replace").strip("\ufffd")
    start = text.lstrip()[:15].lower()
    if start.startswith(("<!doctype", "<html", "<?xml")):
        title = re.search(r"<title[^>]*>(.*?)</title", text, re.S | re.I)
        called = f" ({title[1].strip()!r})" if title else ""
        return (
            f"a web page{called}",
            "The download link answered with a page: open it in a browser, and save "
            "the file that it leads to.",
        )
    if text and all(c.isprintable() or c.isspace() for c in text):
        first = text.strip().splitlines() or [""]
        return f"a text file that begins with {first[0][:60]!r}", _AGAIN
    return (
        f"of no known format (its first bytes are {head[:8].hex(' ')})",
        "Known: PyTorch, pickle, safetensors, MXNet .params, Orbax folders.",
    )


def write_checkpoint(path: str | os.PathLike[str], tree: Mapping[str, Any]) -> None:
    """Writes arrays as the file that the suffix names.

    Args:
        path: ends in one of `FILE_SUFFIXES`; its folder must exist.
        tree: section → name → array; a state dict without sections is section `""`.

    Raises:
        CheckpointError: the format cannot hold the tree, or the disk refuses.
    """
    path = pathlib.Path(path)
    match path.suffix:
        case ".safetensors":
            write_safetensors_file(path, tree)
        case ".params":
            write_mxnet_file(path, tree)
        case _:
            write_torch_file(path, _without_section(tree))
