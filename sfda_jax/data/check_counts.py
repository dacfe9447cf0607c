"""What the examples of one split add up to."""

import collections
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64
from PIL import Image

from sfda_jax.data.check_pairs import Examined
from sfda_jax.types import Record

_FEWEST = 3  # examples of a labelled split, where it has so many
_UNLABELLED_EXAMPLES = 6
_VISIBLE = 0.004  # of an image: a class of so many pixels can be seen in a small copy


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
    """One example to look at.

    Attributes:
        id: its name.
        shows: the train ids that it was chosen for.
        load: its record as a prepared set would hold it, decoded.
    """

    id: str
    shows: tuple[int, ...]
    load: Callable[[], Record]


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnknownValue:
    """A label value that is in no map: its pixels, files, and the first of them."""

    value: int
    pixels: int
    images: int
    first: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitReport:
    """What one split holds.

    Attributes:
        name: of the split.
        found: number of examples listed.
        published: number of examples in the complete download; None if not known.
        read: number of examples looked through.
        faulty: those of them with an error.
        labelled: whether its examples have labels.
        class_pixels: pixels per train id, over examples without error.
        ignored_pixels: pixels without a class, over the same.
        class_images: examples that hold the class, per train id.
        image_sizes: (height, width) of upright images → number of files.
        label_values: published value → pixels, over all labels that decode.
        unknown_values: those of the values that no map lists.
        examples: some that show every class that occurs, or a few without labels.
    """

    name: str
    found: int
    published: int | None
    read: int
    faulty: int
    labelled: bool
    class_pixels: tuple[int, ...]
    ignored_pixels: int
    class_images: tuple[int, ...]
    image_sizes: Mapping[tuple[int, int], int]
    label_values: Mapping[int, int]
    unknown_values: tuple[UnknownValue, ...]
    examples: tuple[Example, ...]


class SplitCounter:
    """Adds up examples; holds a few numbers per class, whatever their number."""

    def __init__(self, num_classes: int):
        self.read = self.faulty = 0
        self.pixels = np.zeros(num_classes + 1, np.int64)
        self.images = np.zeros(num_classes, np.int64)
        self.sizes: collections.Counter = collections.Counter()
        self.values: collections.Counter = collections.Counter()
        self.unknown: dict[int, UnknownValue] = {}
        self._best: dict[int, tuple[Any, np.ndarray]] = {}
        self._unlabelled: list[Any] = []

    def add(self, pairs: Sequence[Any], found: Examined) -> None:
        """Counts the examples of the same two files."""
        self.read += len(pairs)
        if any(remark.error for remark in found.remarks):
            self.faulty += len(pairs)
        if found.size:
            self.sizes[found.size] += 1
        self.values.update(found.values)
        for value in found.unknown:
            old = self.unknown.get(value)
            self.unknown[value] = UnknownValue(
                value=value,
                pixels=found.values[value] + (old.pixels if old else 0),
                images=1 + (old.images if old else 0),
                first=old.first if old else str(pairs[0].label),
            )
        if found.pixels is not None:
            for pair, row in zip(pairs, found.pixels, strict=True):
                self._add_pixels(pair, row)
        elif pairs[0].label is None and found.size:
            self._unlabelled += pairs

    def _add_pixels(self, pair: Any, row: Int64[np.ndarray, " c"]) -> None:
        self.pixels += row
        self.images += row[:-1] > 0
        for train_id in np.flatnonzero(row[:-1]).tolist():
            best = self._best.get(train_id)
            if best is None or row[train_id] > best[1][train_id]:
                self._best[train_id] = pair, row

    def examples(self, builder_class: Any, config: Any) -> tuple[Example, ...]:
        """Examples that together show every class, those of the rarest first."""
        if not self._best:
            step = max(len(self._unlabelled) // _UNLABELLED_EXAMPLES, 1)
            few = self._unlabelled[::step][:_UNLABELLED_EXAMPLES]
            chosen = [(pair, ()) for pair in few]
        else:
            chosen = self._covering()
        return tuple(
            Example(
                id=pair.id,
                shows=shows,
                load=functools.partial(load, builder_class, config, pair),
            )
            for pair, shows in chosen
        )

    def _covering(self) -> list[tuple[Any, tuple[int, ...]]]:
        """(example, classes that it is there for): the largest area of each class.

        A class that an earlier choice shows well enough needs none of its own.
        """
        rarest = sorted(self._best, key=lambda i: (self.pixels[i], i))
        chosen: dict[str, tuple[Any, np.ndarray, list[int]]] = {}
        for train_id in rarest:
            pair, row = self._best[train_id]
            enough = min(row[train_id] / 2, _VISIBLE * row.sum())
            shown = [c for c in chosen.values() if c[1][train_id] >= enough]
            if shown:
                max(shown, key=lambda c: c[1][train_id])[2].append(train_id)
            else:
                chosen[pair.id] = pair, row, [train_id]
        for pair, row in (self._best[i] for i in rarest):
            if len(chosen) < _FEWEST:
                chosen.setdefault(pair.id, (pair, row, []))
        return [(pair, tuple(shows)) for pair, _, shows in chosen.values()]

    def report(
        self, name: str, *, found: int, published: int | None, labelled: bool, examples
    ) -> SplitReport:
        """The sums as plain numbers."""
        return SplitReport(
            name=name,
            found=found,
            published=published,
            read=self.read,
            faulty=self.faulty,
            labelled=labelled,
            class_pixels=tuple(self.pixels[:-1].tolist()),
            ignored_pixels=int(self.pixels[-1]),
            class_images=tuple(self.images.tolist()),
            image_sizes=dict(self.sizes.most_common()),
            label_values=dict(sorted(self.values.items())),
            unknown_values=tuple(self.unknown[v] for v in sorted(self.unknown)),
            examples=examples,
        )


def load(builder_class: Any, config: Any, pair: Any) -> Record:
    """The record that a prepared set would give: `image`, `id`, `label` if it has one.

    Raises:
        DataError: a file was damaged since it was looked through.
    """
    features = builder_class.encode(pair, config)
    image = np.asarray(Image.open(features["image"]).convert("RGB"))
    record = {"image": image, "id": pair.id}
    if pair.label is not None:
        record["label"] = np.asarray(Image.open(features["label"]))
    return record
