"""Prepares a dataset once, completely or not at all, and finds it again."""

import contextlib
import errno
import fcntl
import functools
import logging
import os
import pathlib
import shutil
from collections.abc import Iterator

import tensorflow_datasets as tfds

from sfda_jax import registry
from sfda_jax.data.shards import finish_shards, plan_shards, write_shards
from sfda_jax.errors import DataError

_log = logging.getLogger(__name__)

PathLike = str | os.PathLike
# Record writers report a full disk in their own words; less than this is full.
_FULL_BYTES = 16 * 2**20
_PARTIAL = ".partial"  # of a dataset: shards of a preparation that has not ended


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
            with locked(root / f".{builder.name}.lock"):
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
    """Writes the records into a folder of their own that is renamed at the end."""
    path = pathlib.Path(builder.data_dir)
    if builder.reads_files and (manual is None or not manual.is_dir()):
        found = f"{manual} is no folder" if manual else "no manual_dir is given"
        layout = " ".join(builder.MANUAL_DOWNLOAD_INSTRUCTIONS.split())
        raise DataError(
            f"Dataset {builder.dataset!r} is not prepared in {path} and {found}. "
            f"Expected its files: {layout}",
            hint=f"Run: {command}",
        )
    _log.info("Preparing %s from %s into %s", builder.dataset, manual or "code", path)
    listing = builder.listing(manual, builder.builder_config)
    _report(builder, listing, command)
    config = builder.builder_config
    partial = path.parents[1] / _PARTIAL / f"{config.name}-{path.name}"
    partial.mkdir(parents=True, exist_ok=True)
    shards = plan_shards(listing.splits, name=builder.name, folder=partial)
    wanted = {file for shard in shards for file in (shard.path, shard.note)}
    for stale in set(partial.iterdir()) - wanted:
        stale.unlink()
    write_shards(shards, functools.partial(builder.encode, config=config), builder)
    finish_shards(shards, builder, partial)
    if path.exists():
        _log.warning("Removing the incomplete %s", path)
        shutil.rmtree(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial.rename(path)
    with contextlib.suppress(OSError):  # another variant is being prepared
        partial.parent.rmdir()
    for shard in shards:
        (path / shard.note.name).unlink()


def _report(builder, listing, command: str) -> None:
    """Logs what is left out and keeps its ids; refuses a split without examples."""
    left_out: dict[str, list[str]] = {}
    for finding in listing.findings:
        left_out.setdefault(finding.kind, []).append(finding.id)
    for kind, ids in left_out.items():
        first = next(f.text for f in listing.findings if f.kind == kind)
        _log.warning("%s, %d files, for instance: %s", kind, len(ids), first)
    empty = [split for split, pairs in listing.splits.items() if not pairs]
    if empty:
        texts = " ".join(finding.text for finding in listing.findings[:2])
        raise DataError(
            f"Split {empty[0]!r} of {builder.dataset!r} has no example. {texts}",
            hint="Image and label of an example share their name; see "
            f"data_prep/{builder.dataset}.py. Then run: {command}",
        )
    builder.info.metadata["unlabelled_splits"] = list(listing.unlabelled)
    builder.info.metadata["left_out"] = left_out


def _complete(builder) -> bool:
    """Whether every record file that the dataset's information names is there."""
    if not (pathlib.Path(builder.data_dir) / "dataset_info.json").is_file():
        return False
    files = [f for split in builder.info.splits.values() for f in split.filepaths]
    return bool(files) and all(
        os.path.exists(f) and os.path.getsize(f) > 0 for f in files
    )


@contextlib.contextmanager
def locked(path: pathlib.Path) -> Iterator[None]:
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
                f"No space left in {root} to prepare the dataset; complete parts were "
                "kept.",
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
