"""Published files checked before they are prepared: every file, every fault.

`check_dataset` opens each image and each label of a folder, goes on after a fault, and
returns what it counted and what it found; `sfda_jax.report.check_text` words it.
"""

import collections
import concurrent.futures
import dataclasses
import itertools
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from tqdm import tqdm

from sfda_jax import registry
from sfda_jax.data.check_counts import SplitCounter, SplitReport
from sfda_jax.data.check_folder import Place
from sfda_jax.data.check_pairs import Examined, Remark, counted, examine
from sfda_jax.tasks import ClassSpace

_AHEAD = 4  # files that every thread has waiting for it
_QUIET = 200  # so few files show no progress in a log file


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckReport:
    """What a check found.

    Attributes:
        place: dataset, folder and variant.
        root: the folder read, `place.folder` or one below.
        classes: the class space of the counts.
        splits: one report per split, in the order of the listing.
        not_there: published splits that the folder does not hold → their size.
        remarks: errors and warnings, in file order.
        num_files: files read.
        num_bytes: their size.
        seconds: taken.
        limit: examples read of each split, 0 for all.
    """

    place: Place
    root: pathlib.Path
    classes: ClassSpace
    splits: tuple[SplitReport, ...]
    not_there: Mapping[str, int]
    remarks: tuple[Remark, ...]
    num_files: int
    num_bytes: int
    seconds: float
    limit: int = 0

    @property
    def errors(self) -> tuple[Remark, ...]:
        """What must be mended before the dataset can be prepared."""
        return tuple(remark for remark in self.remarks if remark.error)

    @property
    def warnings(self) -> tuple[Remark, ...]:
        """What should be known, and is left out, converted or lived with."""
        return tuple(remark for remark in self.remarks if not remark.error)


def check_dataset(
    name: str,
    folder: str | os.PathLike,
    *,
    variant: str = "",
    sample: bool = False,
    limit: int = 0,
    threads: int | None = None,
) -> CheckReport:
    """What a folder of published files holds, and everything that is wrong with it.

    Args:
        name: a builder in `data_prep`, or `package.module:Builder`.
        folder: the published files, or a folder that holds them under the name.
        variant: builder configuration; empty for the default one.
        sample: a part of the dataset is meant: published counts are not compared.
        limit: look through so many evenly spread examples a split; 0 for all.
        threads: how many files are decoded at once; None is one a core.

    Raises:
        ConfigError: unknown dataset, with the closest match.
        DataError: the folder is missing, empty or of another layout.
    """
    began = time.perf_counter()
    folder = pathlib.Path(folder).expanduser()
    builder_class = registry.resolve("datasets", name)
    place = Place(name, builder_class, folder, variant, sample)
    config, root, listing = place.open()
    pairs = {s: _spread(every, limit) for s, every in listing.splits.items()}
    known = [finding.pair for finding in listing.findings if finding.pair]
    published = dict(listing.published or builder_class.published)
    run = _Run(builder_class, config, threads)
    with run.progress(sum(map(len, pairs.values())) + len(known)):
        remarks = [_verified(run, finding) for finding in listing.findings]
        splits = [
            run.split(listing, split, pairs[split], published.get(split))
            for split in pairs
        ]
    if not sample:
        remarks += _count_remarks(builder_class, listing, published)
    remarks += run.remarks
    for report in splits:
        remarks += _whole_split_remarks(builder_class, run.classes, report)
    return CheckReport(
        place=place,
        root=root,
        classes=run.classes,
        splits=tuple(splits),
        not_there={s: n for s, n in published.items() if s not in listing.splits},
        remarks=tuple(remarks),
        num_files=run.num_files,
        num_bytes=run.num_bytes,
        seconds=time.perf_counter() - began,
        limit=limit,
    )


def _spread(pairs: Sequence[Any], limit: int) -> Sequence[Any]:
    """At most `limit` of them, evenly spread; all for 0."""
    if not limit or len(pairs) <= limit:
        return pairs
    return [pairs[len(pairs) * i // limit] for i in range(limit)]


class _Run:
    """One check: its settings, and what it has seen of the files so far."""

    def __init__(self, builder_class: Any, config: Any, threads: int | None):
        self.builder_class, self.config = builder_class, config
        self.classes: ClassSpace = builder_class.classes(config)
        self.threads = threads or os.cpu_count()
        self.remarks: list[Remark] = []
        self.num_files = self.num_bytes = 0
        self._seen: dict[tuple[int, int], tuple[str, pathlib.Path]] = {}
        self._bar: tqdm | None = None

    def progress(self, total: int) -> tqdm:
        """The bar, a context manager; in a log file a line now and then instead."""
        quiet = not sys.stderr.isatty()
        self._bar = tqdm(
            total=total,
            unit="image",
            desc=f"check {self.builder_class.dataset}",
            mininterval=30 if quiet else 0.5,
            disable=quiet and total < _QUIET,
        )
        return self._bar

    def examine(self, pairs: Sequence[Any]) -> Examined:
        """What the files of some examples hold."""
        return examine(self.builder_class, self.config, pairs)

    def split(
        self, listing: Any, name: str, pairs: Sequence[Any], published: int | None
    ) -> SplitReport:
        """Looks through a split's examples, in order, over all threads."""
        counter = SplitCounter(self.classes.num_classes)
        by_file = itertools.groupby(pairs, key=lambda pair: (pair.image, pair.label))
        groups = [tuple(group) for _, group in by_file]
        with concurrent.futures.ThreadPoolExecutor(self.threads) as pool:
            for group, found in _in_order(pool, self.examine, groups, self.threads):
                self.count(group, found, split=name)
                counter.add(group, found)
        return counter.report(
            name,
            found=len(listing.splits[name]),
            published=published,
            labelled=name not in listing.unlabelled,
            examples=counter.examples(self.builder_class, self.config),
        )

    def count(self, group: Sequence[Any], found: Examined, *, split: str) -> None:
        """Notes what was found in the files of some examples."""
        self._bar.update(len(group))
        self.num_files += 2 if group[0].label else 1
        self.num_bytes += found.num_bytes
        self.remarks += [dataclasses.replace(r, split=split) for r in found.remarks]
        if found.content:
            self._compare(group[0].image, found.content, split)

    def _compare(self, path: pathlib.Path, content: tuple[int, int], split: str):
        """Notes an image that is there twice; across splits, scores would be wrong."""
        other_split, other = self._seen.setdefault(content, (split, path))
        if other == path or other.read_bytes() != path.read_bytes():
            return
        twice = "same image" if other_split == split else "image in two splits"
        where = "" if other_split == split else f" of split {other_split!r}"
        text = f"{path} has the same bytes as {other}{where}."
        self.remarks.append(Remark(kind=twice, text=text, error=False, split=split))


def _in_order(
    pool: concurrent.futures.Executor,
    function: Callable[[Any], Any],
    items: Iterable[Any],
    threads: int,
) -> Iterator[tuple[Any, Any]]:
    """(item, result) in order, a bounded number of items ahead."""
    waiting: collections.deque = collections.deque()
    for item in items:
        waiting.append((item, pool.submit(function, item)))
        if len(waiting) > _AHEAD * threads:
            first, future = waiting.popleft()
            yield first, future.result()
    for item, future in waiting:
        yield item, future.result()


def _verified(run: _Run, finding: Any) -> Remark:
    """A remark of the listing; a known defect with what this copy is like."""
    text = finding.text
    if finding.pair:
        found = run.examine([finding.pair])
        counted_only = dataclasses.replace(found, remarks=(), content=None)
        run.count([finding.pair], counted_only, split="")
        faults = " ".join(remark.text for remark in found.remarks)
        text += f" Seen: {faults}" if faults else " This copy of it looks sound."
    return Remark(kind=finding.kind, text=text, error=finding.error)


def _count_remarks(
    builder_class: Any, listing: Any, published: Mapping[str, int]
) -> Iterator[Remark]:
    """Splits, and groups of them, that have another number than was published."""
    for split, pairs in listing.splits.items():
        expected = published.get(split)
        if expected is None or len(pairs) == expected or not pairs:
            continue
        groups = builder_class.groups.get(split, {})
        found = collections.Counter(
            builder_class.group_of(pair.id) for pair in pairs if groups
        )
        parts = [f"{g} {found[g]} of {n}" for g, n in groups.items() if found[g] != n]
        detail = f" ({', '.join(parts)})" if parts else ""
        yield Remark(
            kind="count",
            text=f"{split} has {counted(len(pairs), 'example')}, published {expected:,}"
            f"{detail}.",
            mend="Complete the download, or add --sample where a part of it is meant.",
            split=split,
        )


def _whole_split_remarks(
    builder_class: Any, classes: ClassSpace, report: SplitReport
) -> Iterator[Remark]:
    """What only all files of a split together show."""
    if not report.found:
        yield Remark(
            kind="no example",
            text=f"{report.name} has no example: no image has a label of its name.",
            mend="Give images and labels the same names.",
            split=report.name,
        )
    elif not report.labelled:
        yield Remark(
            kind="no labels",
            text=f"{report.name} has no labels: good for a target's training images, "
            "not for a source or for scores.",
            error=False,
            split=report.name,
        )
    elif any(report.class_pixels):
        rows = zip(classes.names, report.class_pixels, strict=True)
        absent = [n for n, c in rows if not c and n not in builder_class.absent_classes]
        if absent:
            yield Remark(
                kind="absent class",
                text=f"{report.name} has no pixel of {', '.join(absent)} in "
                f"{counted(report.read, 'example')}.",
                error=False,
                split=report.name,
            )
    usual = builder_class.image_sizes
    odd = {s: n for s, n in report.image_sizes.items() if usual and s not in usual}
    for (height, width), number in odd.items():
        known = " or ".join(f"{w}×{h}" for h, w in usual)
        yield Remark(
            kind="unusual size",
            text=f"{report.name} has {counted(number, 'image')} of {width}×{height}, "
            f"published {known}: resized copies?",
            error=False,
            split=report.name,
        )
