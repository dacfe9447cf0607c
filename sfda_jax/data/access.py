"""What a run may read: the task's splits, without target labels, source-free."""

import dataclasses
import functools
from collections.abc import Mapping

from sfda_jax.data.generated import GeneratedSource
from sfda_jax.data.preparation import prepare
from sfda_jax.data.sources import fingerprint, open_split
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
    """

    task: Task
    data_dir: str = ""
    manual_dirs: Mapping[str, str] = dataclasses.field(default_factory=dict)
    generated_size: tuple[int, int] | None = None
    source_closed: bool = False
    limit: int = 0

    def without_source(self) -> "DataAccess":
        """The same data after the source stage: source training streams are refused."""
        return dataclasses.replace(self, source_closed=self.task.source_free)

    def train(self, domain: str) -> RandomAccess:
        """The training split of `source` (labelled) or `target` (never labelled).

        Raises:
            DataError: the source, after a source-free task left its source stage.
        """
        if domain == "source" and self.source_closed:
            raise DataError(
                f"Task {self.task.name!r} is source-free: a source stream was asked "
                "for after adaptation began.",
                hint="Set --config.task.source_free=false if source data may be used.",
            )
        side = self._domain(domain)
        return self._open(side, side.train, labelled=domain == "source")

    def eval(self, domain: str) -> RandomAccess:
        """The labelled evaluation split of `source` or `target`."""
        side = self._domain(domain)
        return self._open(side, side.eval, labelled=True)

    def target_train_report(self) -> RandomAccess:
        """The target's training split with what labels it has: for reports only."""
        side = self.task.target
        try:
            return self._open(side, side.train, labelled=True)
        except DataError:  # the user's folder has none
            return self._open(side, side.train, labelled=False)

    def fingerprints(self) -> dict[str, str]:
        """Dataset → fingerprint of its prepared set."""
        if self.generated_size is not None:
            return {"generated": str(self.generated_size)}
        sides = [s for s in (self.task.source, self.task.target) if s is not None]
        return {s.dataset: fingerprint(self._builder(s)) for s in sides}

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

    def _open(self, side: Domain, split: str, *, labelled: bool) -> RandomAccess:
        source = self._open_whole(side, split, labelled=labelled)
        return First(source, self.limit) if self.limit else source

    def _open_whole(self, side: Domain, split: str, *, labelled: bool) -> RandomAccess:
        if self.generated_size is not None:
            return GeneratedSource(
                size=self.generated_size,
                num_classes=self.task.classes.num_classes,
                labelled=labelled,
            )
        return open_split(self._builder(side), split, labelled=labelled)


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
