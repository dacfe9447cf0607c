"""What a run may read: the task's splits, without target labels, source-free."""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int, UInt32

from sfda_jax.data import lists, statistics
from sfda_jax.data.generated import GeneratedSource
from sfda_jax.data.list_order import in_published_order
from sfda_jax.data.preparation import default_data_dir, prepare
from sfda_jax.data.sources import example_ids, fingerprint, open_split
from sfda_jax.errors import DataError
from sfda_jax.tasks import Domain, Task
from sfda_jax.types import RandomAccess, Record


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataAccess:
    """The task's data behind one door.

    Attributes:
        task: which datasets and splits.
        data_dir: prepared sets; empty for the default place.
        manual_dirs: dataset → folder of the original download.
        generated_size: (height, width) of procedural stand-ins for every dataset,
            or None for the real ones.
        source_closed: True once a source-free task left its source stage.
        limit: read only so many examples of every split (dry runs), 0 for all.
        partial: the files are part of the published ones: what a list names and they
            lack is left out.
    """

    task: Task
    data_dir: str = ""
    manual_dirs: Mapping[str, str] = dataclasses.field(default_factory=dict)
    generated_size: tuple[int, int] | None = None
    source_closed: bool = False
    limit: int = 0
    partial: bool = False

    def without_source(self) -> "DataAccess":
        """The same data after the source stage: source training streams are refused."""
        return dataclasses.replace(self, source_closed=self.task.source_free)

    def with_target(self, target: Domain) -> "DataAccess":
        """The same data with another domain as the target."""
        task = dataclasses.replace(self.task, target=target)
        return dataclasses.replace(self, task=task)

    def train(self, domain: str) -> RandomAccess:
        """The training examples of `source` (labelled) or `target` (never labelled).

        Of `both`: the source's, then the target's, which then say their `domain`.

        Raises:
            DataError: the source, after a source-free task left its source stage;
                examples of the domain's list that are not there.
        """
        if domain == "both":
            return Joined(self.train("source"), self.train("target"))
        self._check_open(domain)
        return self._train(self._domain(domain), labelled=domain == "source")

    def eval(self, domain: str) -> RandomAccess:
        """The labelled evaluation split of `source` or `target`."""
        side = self._domain(domain)
        return self._limited(self._open(side, side.eval, labelled=True))

    def submission(self, domain: str) -> RandomAccess:
        """The evaluation split with the labels it has, at its published size.

        Raises:
            DataError: it was prepared at another size.
        """
        side = self._domain(domain)
        if self.generated_size is not None:
            return self.eval(domain)
        builder = self._builder(side)
        if builder.reads_files and builder.builder_config.size:
            raise DataError(
                f"{builder.info.full_name} was prepared at another size than published,"
                " and a benchmark takes predictions at the published size.",
                hint=f"Set --config.task.{domain}.variant without HEIGHTxWIDTH.",
            )
        without = builder.info.metadata["unlabelled_splits"]
        labelled = not set(side.eval.split("+")) & set(without)
        return self._limited(self._open(side, side.eval, labelled=labelled))

    def target_train_report(self, *, pictured: bool = True) -> RandomAccess:
        """The target's training examples with what labels there are: for reports.

        Args:
            pictured: whether records carry their image; decoding it takes time.
        """
        side = self.task.target
        try:
            return self._train(side, labelled=True, pictured=pictured)
        except DataError:  # the user's folder has none
            return self._train(side, labelled=False, pictured=pictured)

    def class_pixels(self, domain: str) -> statistics.ClassPixels:
        """Pixels of each class in each training image of the source.

        Counted once, kept beside the prepared sets.

        Raises:
            DataError: the target, whose training labels nobody reads; a closed source.
        """
        source, num_classes = self._labels(domain), self.task.classes.num_classes
        if self._passing:
            return statistics.count_class_pixels(source, num_classes)

        def count():
            return {"counts": statistics.count_class_pixels(source, num_classes).counts}

        arrays = self._kept(domain, f"class_pixels{num_classes}", count)
        return statistics.ClassPixels(ids=self._ids(domain), counts=arrays["counts"])

    def class_maps(
        self, domain: str, size: tuple[int, int]
    ) -> UInt32[np.ndarray, "c h w"]:
        """In how many of the source's training images each class lies at each pixel.

        Args:
            domain: `source`.
            size: (height, width) that labels are resized to.

        Raises:
            DataError: as `class_pixels`.
        """
        source, num_classes = self._labels(domain), self.task.classes.num_classes
        if self._passing:
            return statistics.count_class_maps(source, num_classes, size)

        def count():
            return {"counts": statistics.count_class_maps(source, num_classes, size)}

        kind = f"class_maps{num_classes}-{size[0]}x{size[1]}"
        return self._kept(domain, kind, count)["counts"]

    def used_lists(self, domains: Mapping[str, Domain]) -> dict[str, dict[str, Any]]:
        """Domain → which of its training examples are used: `lists.Selection.record`.

        Raises:
            ConfigError: an unknown list, or one of another dataset.
            DataError: an unknown split; examples of a list that are not there.
        """
        if self.generated_size is not None:
            return {}
        return {
            name: {
                "dataset": side.dataset,
                "split": side.train,
                **self._selection(side).record(),
            }
            for name, side in domains.items()
        }

    def check_eval(self, domains: Mapping[str, Domain]) -> None:
        """Opens the evaluation splits, so that a missing one is known at once.

        Raises:
            DataError: an unknown split, or one without labels.
        """
        for side in domains.values():
            if side.eval:
                self._open(side, side.eval, labelled=True)

    def fingerprints(self, domains: Mapping[str, Domain]) -> dict[str, str]:
        """Dataset, with its variant where there are several → prepared set's print."""
        if self.generated_size is not None:
            return {"generated": str(self.generated_size)}
        places = dict.fromkeys((s.dataset, s.variant) for s in domains.values())
        datasets = [dataset for dataset, _ in places]
        found = {}
        for side in domains.values():
            several = datasets.count(side.dataset) > 1
            name = f"{side.dataset} {side.variant}" if several else side.dataset
            found[name.strip()] = fingerprint(self._builder(side))
        return found

    def _domain(self, name: str) -> Domain:
        side = {"source": self.task.source, "target": self.task.target}[name]
        if side is None:
            raise DataError(f"Task {self.task.name!r} has no {name} dataset.")
        return side

    def _builder(self, side: Domain):
        return _prepared(
            side.dataset,
            self.data_dir,
            self.manual_dirs.get(side.dataset, ""),
            side.variant,
        )

    @property
    def _passing(self) -> bool:
        """Whether what is read is a stand-in, of which nothing is worth keeping."""
        return self.generated_size is not None or self.limit > 0

    def _check_open(self, domain: str) -> None:
        if domain == "source" and self.source_closed:
            raise DataError(
                f"Task {self.task.name!r} is source-free: source data were asked for "
                "after adaptation began.",
                hint="Set --config.task.source_free=false if source data may be used.",
            )

    def _train(
        self, side: Domain, *, labelled: bool, pictured: bool = True
    ) -> RandomAccess:
        source = self._open(side, side.train, labelled=labelled, pictured=pictured)
        if side.train_list and self.generated_size is None:
            source = Chosen(source, self._selection(side).positions)
        return self._limited(source)

    def _labels(self, domain: str) -> RandomAccess:
        """The source's training labels alone."""
        if domain != "source":
            raise DataError(
                f"Labels of the {domain}'s training images were asked for; methods "
                "never read them."
            )
        self._check_open(domain)
        return self._train(self._domain(domain), labelled=True, pictured=False)

    def _ids(self, domain: str) -> tuple[str, ...]:
        side = self._domain(domain)
        ids = example_ids(self._builder(side), side.train)
        return tuple(ids[i] for i in self._selection(side).positions)

    def _kept(self, domain: str, kind: str, compute) -> Mapping[str, Any]:
        side = self._domain(domain)
        folder = pathlib.Path(self.data_dir).expanduser()
        root = folder if self.data_dir else default_data_dir()
        name = statistics.file_name(
            fingerprint(self._builder(side)), side.train, side.train_list, kind
        )
        return statistics.kept(root / "statistics" / name, self._ids(domain), compute)

    def _selection(self, side: Domain) -> lists.Selection:
        return _selected(self._builder(side), side, self.partial)

    def _limited(self, source: RandomAccess) -> RandomAccess:
        return First(source, self.limit) if self.limit else source

    def _open(
        self, side: Domain, split: str, *, labelled: bool, pictured: bool = True
    ) -> RandomAccess:
        if self.generated_size is not None:
            return GeneratedSource(
                size=self.generated_size,
                num_classes=self.task.classes.num_classes,
                labelled=labelled,
            )
        return open_split(
            self._builder(side), split, labelled=labelled, pictured=pictured
        )


@dataclasses.dataclass(frozen=True)
class Joined:
    """A source domain's examples and, behind them, the target's."""

    source: RandomAccess
    target: RandomAccess

    def __len__(self) -> int:
        return len(self.source) + len(self.target)

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(index)
        behind = index - len(self.source)
        if behind < 0:
            return {**self.source[index], "domain": "source"}
        return {**self.target[behind], "domain": "target"}


@dataclasses.dataclass(frozen=True)
class Chosen:
    """The examples of a source at these positions."""

    source: RandomAccess
    positions: Int[np.ndarray, "_"]

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.source[int(self.positions[index])]


@dataclasses.dataclass(frozen=True)
class First:
    """The first `limit` examples of a source."""

    source: RandomAccess
    limit: int

    def __len__(self) -> int:
        return min(self.limit, len(self.source))

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.source[index]


@functools.cache
def _prepared(dataset: str, data_dir: str, manual_dir: str, variant: str):
    return prepare(dataset, data_dir=data_dir, manual_dir=manual_dir, variant=variant)


@functools.cache
def _selected(builder, side: Domain, partial: bool) -> lists.Selection:
    """What a domain's list selects from its prepared training split."""
    ids = example_ids(builder, side.train)
    if not side.train_list:
        return lists.select_all(ids)
    wanted = lists.load_list(side.train_list)
    lists.check_fits(wanted, side.dataset, side.train, where="config.task")
    defects = builder.info.metadata["left_out"].get("defect", ())
    chosen = lists.select(wanted, ids, defects=defects, partial=partial)
    positions = in_published_order(wanted.name, ids, chosen.positions)
    return dataclasses.replace(chosen, positions=positions)
