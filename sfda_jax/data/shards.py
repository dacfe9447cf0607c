"""Record files of a dataset: written in parallel, each whole or not at all.

A shard is a run of consecutive examples. Its file appears under its final name only
when it is complete, beside a note of what it was made from, so a killed preparation
goes on with the shards that are missing and ends with the same bytes.
"""

import concurrent.futures
import dataclasses
import hashlib
import json
import logging
import os
import pathlib
import shutil
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow_datasets as tfds
from array_record.python import array_record_module
from tensorflow_datasets.core import example_serializer, splits
from tqdm import tqdm

from sfda_jax.errors import DataError

_log = logging.getLogger(__name__)

IDS_FILE = "ids.json"
"""Beside the shards: file → ids of its examples, so that no record need be read."""

_FEW, _MANY = 8, 256  # examples a shard, of a small set and of a large one
_SAMPLES = 4  # examples of a split that its size on disk is estimated from
_MARGIN = 1.05

Encode = Callable[[Any], dict]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shard:
    """Consecutive examples of one split, and the file that holds them."""

    split: str
    path: pathlib.Path
    pairs: Sequence[Any]

    @property
    def note(self) -> pathlib.Path:
        """What a complete file was made from, and what is in it."""
        return self.path.with_name(self.path.name + ".json")


def plan_shards(
    listed: Mapping[str, Sequence[Any]], *, name: str, folder: pathlib.Path
) -> list[Shard]:
    """The shards of a dataset, a function of the number of examples alone.

    Args:
        listed: split → examples in order.
        name: of the dataset, as its files are named after it.
        folder: where the files go.
    """
    shards = []
    for split, pairs in listed.items():
        count = max(min(_ceil(len(pairs), _FEW), 8), _ceil(len(pairs), _MANY))
        bounds = [len(pairs) * i // count for i in range(count + 1)]
        for i in range(count):
            file = f"{name}-{split}.array_record-{i:05d}-of-{count:05d}"
            pairs_here = pairs[bounds[i] : bounds[i + 1]]
            shards.append(Shard(split=split, path=folder / file, pairs=pairs_here))
    return shards


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


def write_shards(
    shards: Sequence[Shard], encode: Encode, builder: tfds.core.DatasetBuilder
) -> None:
    """Writes the shards that are not there yet, over all cores, with progress.

    The first fault stops all: shards that are complete by then are kept.

    Args:
        shards: from `plan_shards`.
        encode: the features of an example; called from several threads.
        builder: whose feature specification serialises them.

    Raises:
        DataError: whatever `encode` raises; too little room on the disk.
    """
    missing = [shard for shard in shards if not _is_complete(shard)]
    if missing:
        done = sum(len(s.pairs) for s in shards) - sum(len(s.pairs) for s in missing)
        if done:
            _log.info("Going on: %d examples are there already", done)
        _check_room(missing, encode)
        _write_all(missing, encode, builder, done=done)


def _write_all(missing, encode: Encode, builder, *, done: int) -> None:
    stop = threading.Event()
    total = done + sum(len(shard.pairs) for shard in missing)
    quiet = not sys.stderr.isatty()
    with (
        tqdm(
            total=total,
            initial=done,
            unit="image",
            desc=missing[0].path.name.split("-")[0],
            mininterval=30 if quiet else 0.5,
            disable=quiet and total < 200,
        ) as progress,
        concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool,
    ):

        def write(shard: Shard) -> None:
            _write(shard, encode, builder, stop=stop, progress=progress)

        futures = [pool.submit(write, shard) for shard in missing]
        try:
            for future in concurrent.futures.as_completed(futures):
                future.result()
        except BaseException:
            stop.set()
            for future in futures:
                future.cancel()
            raise


class _Stopped(Exception):
    """Another shard failed."""


def _write(shard: Shard, encode: Encode, builder, *, stop, progress) -> None:
    specification = builder.info.features.get_serialized_info()
    serializer = example_serializer.ExampleSerializer(specification)
    unfinished = shard.path.with_name(shard.path.name + ".unfinished")
    writer = array_record_module.ArrayRecordWriter(
        os.fspath(unfinished), "group_size:1"
    )
    content, size = hashlib.sha256(), 0
    try:
        for pair in shard.pairs:
            if stop.is_set():
                raise _Stopped
            example = builder.info.features.encode_example(encode(pair))
            # plain serialisation orders the features differently in every process
            message = serializer.get_tf_example(example)
            record = message.SerializeToString(deterministic=True)
            writer.write(record)
            content.update(len(record).to_bytes(8, "little") + record)
            size += len(record)
            progress.update()
    finally:
        writer.close()
    os.replace(unfinished, shard.path)
    note = {"source": _source(shard), "sha256": content.hexdigest(), "bytes": size}
    draft = shard.note.with_name(shard.note.name + ".unfinished")
    draft.write_text(json.dumps(note))
    os.replace(draft, shard.note)


def _source(shard: Shard) -> str:
    """Changes when a file of the shard is replaced, or the list of its examples."""
    digest = hashlib.sha256()
    for pair in shard.pairs:
        row = [pair.id, pair.box]
        for path in (pair.image, pair.label):
            if path is not None and path.exists():
                stat = path.stat()
                row += [path.name, stat.st_size, stat.st_mtime_ns]
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()


def _is_complete(shard: Shard) -> bool:
    try:
        note = json.loads(shard.note.read_text())
        return shard.path.stat().st_size > 0 and note["source"] == _source(shard)
    except (OSError, ValueError, KeyError):
        return False


def _check_room(missing: Sequence[Shard], encode: Encode) -> None:
    """Refuses to start what cannot end, from the size of a few examples."""
    needed = 0.0
    for split in dict.fromkeys(shard.split for shard in missing):
        pairs = [p for shard in missing if shard.split == split for p in shard.pairs]
        step = _ceil(len(pairs), _SAMPLES)
        sizes = [_encoded_bytes(encode(pair)) for pair in pairs[::step]]
        needed += _MARGIN * len(pairs) * sum(sizes) / len(sizes)
    folder = missing[0].path.parent
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DataError(
            f"{folder} needs about {needed / 1e9:.2f} GB more to prepare the dataset, "
            f"and {free / 1e9:.2f} GB are free there; nothing was started.",
            hint="Free some space, set SFDA_JAX_DATA to another disk, or store a "
            "smaller size: --variant=HEIGHTxWIDTH.",
        )


def _encoded_bytes(features: dict) -> int:
    return sum(len(features[name].getvalue()) for name in ("image", "label"))


def finish_shards(
    shards: Sequence[Shard], builder: tfds.core.DatasetBuilder, folder: pathlib.Path
) -> None:
    """Describes the complete files to TFDS, so that any TFDS program can read them.

    Args:
        shards: all of them, complete.
        builder: whose information gets splits and content hash, and is written.
        folder: of the files.
    """
    content, infos = hashlib.sha256(), []
    for split in dict.fromkeys(shard.split for shard in shards):
        own = [shard for shard in shards if shard.split == split]
        notes = [json.loads(shard.note.read_text()) for shard in own]
        content.update(json.dumps([split, [n["sha256"] for n in notes]]).encode())
        infos.append(
            splits.SplitInfo(
                name=split,
                shard_lengths=[len(shard.pairs) for shard in own],
                num_bytes=sum(note["bytes"] for note in notes),
                filename_template=tfds.core.ShardedFileTemplate(
                    data_dir=folder,
                    dataset_name=builder.name,
                    split=split,
                    filetype_suffix="array_record",
                ),
            )
        )
    ids = {shard.path.name: [pair.id for pair in shard.pairs] for shard in shards}
    (folder / IDS_FILE).write_text(json.dumps(ids))
    builder.info.metadata["content"] = content.hexdigest()
    builder.info.set_splits(splits.SplitDict(infos))
    builder.info.write_to_directory(folder)
