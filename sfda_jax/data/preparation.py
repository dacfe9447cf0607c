"""Prepares a dataset once, completely or not at all, and finds it again."""

import contextlib
import errno
import fcntl
import logging
import os
import pathlib
import shutil
from collections.abc import Iterator

import tensorflow_datasets as tfds

from sfda_jax import registry
from sfda_jax.errors import DataError

_log = logging.getLogger(__name__)

PathLike = str | os.PathLike
# Record writers report a full disk in their own words; less than this is full.
_FULL_BYTES = 16 * 2**20


def default_data_dir() -> pathlib.Path:
    """`$SFDA_JAX_DATA`, or `~/.cache/sfda_jax`."""
    folder = os.environ.get("SFDA_JAX_DATA") or "~/.cache/sfda_jax"
    return pathlib.Path(folder).expanduser()


def prepare(
    dataset: str,
    *,
    data_dir: PathLike | None = None,
    manual_dir: PathLike | None = None,
    variant: str = "",
) -> tfds.core.DatasetBuilder:
    """The builder of a dataset that is ready to read, prepared now if need be.

    Processes that ask for the same dataset at once wait for the first of them.

    Args:
        dataset: name of a builder in `data_prep`, or `package.module:Builder`.
        data_dir: where prepared sets are kept; `default_data_dir()` when None.
        manual_dir: the published files, or a folder that holds them under the
            dataset's name. Not needed once the set is prepared.
        variant: builder configuration; empty for the default one.

    Raises:
        DataError: files missing or damaged, disk full, folder not writable.
        ConfigError: unknown dataset.
    """
    builder_class = registry.resolve("datasets", dataset)
    root = pathlib.Path(data_dir).expanduser() if data_dir else default_data_dir()
    manual = pathlib.Path(manual_dir).expanduser() if manual_dir else None
    config, manual = builder_class.locate(manual, variant)

    def build():
        return builder_class(data_dir=root, config=config, file_format="array_record")

    command = f"python -m data_prep {dataset}"
    if builder_class.reads_files:
        command += " --manual_dir=<folder of the files>"
    if variant:
        command += f" --variant={variant}"
    with _faults_translated(root, command):
        root.mkdir(parents=True, exist_ok=True)
        builder = build()
        if not _complete(builder):
            with _locked(root / f".{builder.name}.lock"):
                builder = build()  # another process may have prepared it meanwhile
                if not _complete(builder):
                    _generate(builder, manual, command)
                    builder = build()
    if not _complete(builder):
        raise DataError(
            f"{builder.data_dir} lacks records after preparation.",
            hint=f"Free some disk space, delete that folder, then run: {command}",
        )
    return builder


def _generate(builder, manual: pathlib.Path | None, command: str) -> None:
    """Writes the records into a temporary folder that is renamed at the end."""
    path = pathlib.Path(builder.data_dir)
    if builder.reads_files and (manual is None or not manual.is_dir()):
        found = f"{manual} is no folder" if manual else "no manual_dir is given"
        layout = " ".join(builder.MANUAL_DOWNLOAD_INSTRUCTIONS.split())
        raise DataError(
            f"Dataset {builder.dataset!r} is not prepared in {path} and {found}. "
            f"Expected its files: {layout}",
            hint=f"Run: {command}",
        )
    for stale in (path, *path.parent.glob(f"incomplete.*_{path.name}")):
        if stale.exists():
            _log.warning("Removing the incomplete %s", stale)
            shutil.rmtree(stale)
    _log.info("Preparing %s from %s into %s", builder.dataset, manual or "code", path)
    builder = type(builder)(
        data_dir=builder._data_dir_root,
        config=builder.builder_config,
        file_format="array_record",
    )
    download = tfds.download.DownloadConfig(manual_dir=manual)
    builder.download_and_prepare(download_config=download)
    try:
        for split, info in builder.info.splits.items():
            builder.as_data_source(split)[info.num_examples - 1]
    except Exception:
        shutil.rmtree(path)  # a writer that met a full disk may not have said so
        raise


def _complete(builder) -> bool:
    """Whether every record file that the dataset's information names is there."""
    if not (pathlib.Path(builder.data_dir) / "dataset_info.json").is_file():
        return False
    files = [f for split in builder.info.splits.values() for f in split.filepaths]
    return bool(files) and all(
        os.path.exists(f) and os.path.getsize(f) > 0 for f in files
    )


@contextlib.contextmanager
def _locked(path: pathlib.Path) -> Iterator[None]:
    """Holds a lock that the system releases even when the process is killed."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)


@contextlib.contextmanager
def _faults_translated(root: pathlib.Path, command: str) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        if _is_full(error, root):
            raise DataError(
                f"No space left in {root} to prepare the dataset; nothing was kept.",
                hint="Free some space or set SFDA_JAX_DATA to another disk, then run: "
                f"{command}",
            ) from error
        if isinstance(error, OSError) and error.errno in (
            *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST),
        ):
            raise DataError(
                f"{error.filename or root} cannot be used ({error.strerror}).",
                hint="Mend the permissions or set SFDA_JAX_DATA to a folder of yours, "
                f"then run: {command}",
            ) from error
        raise


def _is_full(error: BaseException, root: pathlib.Path) -> bool:
    """Whether a failure, or what caused it, is a full disk or an exhausted quota."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if "No space left" in str(error) or "Not enough disk space" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return root.exists() and shutil.disk_usage(root).free < _FULL_BYTES
