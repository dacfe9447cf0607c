"""Random access to prepared examples; labels only for those who may read them."""

import json
import os
import pathlib
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from sfda_jax.data.preparation import prepare
from sfda_jax.data.shards import IDS_FILE
from sfda_jax.errors import DataError
from sfda_jax.registry import closest
from sfda_jax.tasks import ClassSpace
from sfda_jax.types import Record


class Source:
    """One split of a prepared dataset: `len(source)`, `source[i] -> Record`.

    Records hold `image` uint8[H,W,3] RGB, `id` str and, in a labelled source, `label`
    uint8[H,W] of train ids. An unlabelled source never decodes a label, and its records
    have no such key. Sources pickle: a worker process opens the records itself.

    Args:
        directory: folder of the prepared set.
        split: name of one of its splits, or several joined by `+`.
        labelled: whether records carry their label.
        pictured: whether records carry their image; False saves decoding it.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        split: str,
        *,
        labelled: bool,
        pictured: bool = True,
    ):
        self.directory = os.fspath(directory)
        self.split = split
        self.labelled = labelled
        self.pictured = pictured
        self._records: Any = None

    def _open(self):
        if self._records is None:
            builder = tfds.builder_from_directory(self.directory)
            wanted = {"image": self.pictured, "label": self.labelled}
            skip = {k: tfds.decode.SkipDecoding() for k, v in wanted.items() if not v}
            self._records = builder.as_data_source(self.split, decoders=skip or None)
        return self._records

    def __len__(self) -> int:
        return len(self._open())

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(f"{index} is outside {self!r} of {len(self)} examples")
        example = self._open()[int(index)]
        record = {"id": example["id"].decode()}
        if self.pictured:
            record["image"] = example["image"]
        if self.labelled:
            record["label"] = example["label"][..., 0]
        return record

    def __repr__(self) -> str:
        return f"Source({self.directory!r}, {self.split!r}, labelled={self.labelled})"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_records": None}


def open_split(
    dataset: str | tfds.core.DatasetBuilder,
    split: str,
    *,
    labelled: bool,
    pictured: bool = True,
    **where,
) -> Source:
    """The examples of one split of a dataset, prepared first if need be.

    Args:
        dataset: a builder from `prepare`, or a dataset's name.
        split: e.g. `train`, or `fog_train+night_train` for both.
        labelled: False for target training images: their labels are never read.
        pictured: False where labels alone are wanted.
        **where: `data_dir`, `manual_dir`, `variant` of `prepare`, with a name.

    Raises:
        DataError: no such split; labels asked of a split that has none.
    """
    builder = prepare(dataset, **where) if isinstance(dataset, str) else dataset
    for part in _parts(builder, split):
        if labelled and part in builder.info.metadata["unlabelled_splits"]:
            raise DataError(
                f"{builder.info.full_name} was prepared without labels of {part!r}, "
                "and they are asked for.",
                hint=f"Add the label files, delete {builder.data_dir}, prepare it "
                "again.",
            )
    return Source(builder.data_dir, split, labelled=labelled, pictured=pictured)


def example_ids(builder: tfds.core.DatasetBuilder, split: str) -> list[str]:
    """Ids of a prepared split's examples, in order, without reading a record.

    Args:
        builder: of a prepared set.
        split: one of its splits, or several joined by `+`.

    Raises:
        DataError: no such split.
    """
    _parts(builder, split)
    path = pathlib.Path(builder.data_dir) / IDS_FILE
    stored = json.loads(path.read_text(encoding="utf-8"))
    ids: list[str] = []
    for part in builder.info.splits[split].file_instructions:
        names = stored[pathlib.Path(part.filename).name]
        ids += names[part.skip : part.skip + part.take]
    return ids


def _parts(builder: tfds.core.DatasetBuilder, split: str) -> list[str]:
    """The splits that are joined by `+`, all of them known."""
    splits = list(builder.info.splits)
    for part in split.split("+"):
        if part not in splits:
            raise DataError(
                f"{builder.info.full_name} has no split {part!r}."
                f"{closest(part, splits)}",
                hint=f"Known splits: {', '.join(splits)}; several are joined by '+'.",
            )
    return split.split("+")


def dataset_classes(builder: tfds.core.DatasetBuilder) -> ClassSpace:
    """The class space that a prepared dataset's labels are stored in."""
    stored = builder.info.metadata["classes"]
    return ClassSpace(
        name=stored["name"],
        names=tuple(stored["names"]),
        palette=np.array(stored["palette"], np.uint8),
        subsets={name: tuple(ids) for name, ids in stored["subsets"].items()},
    )


def fingerprint(builder: tfds.core.DatasetBuilder) -> str:
    """`name/config/version:hash`, changed by any change of a stored byte or order."""
    return f"{builder.info.full_name}:{builder.info.metadata['content'][:16]}"
