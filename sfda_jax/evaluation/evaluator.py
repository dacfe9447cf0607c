"""Scores of a network on a labelled split, and of pseudo-labels against the truth."""

import collections
import concurrent.futures
import dataclasses
import functools
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, PyTree, UInt8
from PIL import Image

from sfda_jax.errors import DataError
from sfda_jax.evaluation import confusion as confusion_lib
from sfda_jax.evaluation.predictor import SINGLE, Views, merge_views, view_logits
from sfda_jax.ops.processes import total as sum_over_processes
from sfda_jax.pseudo_labels.store import PseudoLabelStore
from sfda_jax.tasks import ClassSpace
from sfda_jax.types import IGNORE, RandomAccess, Transform

Write = Callable[[str, np.ndarray], None]
"""Is given an example's id and its prediction, train ids uint8[h,w]."""

_READERS = 4
_READ_AHEAD = 8
_IN_FLIGHT = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """One network's evaluation on one split.

    Attributes:
        confusion: int64[C,C] pixels, rows are the ground truth.
        scores: what it says, by the official rule.
        classes: the class space.
        num_images: images counted.
        seconds: wall time, compilation included.
    """

    confusion: Int[np.ndarray, "c c"]
    scores: confusion_lib.Scores
    classes: ClassSpace
    num_images: int
    seconds: float


# Compiled once per network and input size for the whole process: `model` is hashable.
@functools.partial(jax.jit, static_argnames=("model", "views"))
def network_logits(
    model: nn.Module,
    variables: PyTree,
    images: UInt8[Array, "b h w 3"],
    views: Views = SINGLE,
) -> tuple[Float[Array, "b _h _w c"], ...]:
    """Jitted `view_logits` of raw RGB images."""
    return view_logits(model, variables, images, views)


@functools.partial(jax.jit, static_argnames=("views", "input_size", "num_classes"))
def _count(logits, labels, *, views, input_size, num_classes):
    probs = merge_views(logits, labels.shape[1:3], views, input_size=input_size)
    predictions = jnp.argmax(probs, axis=-1)
    of_image = functools.partial(
        confusion_lib.confusion_matrix, num_classes=num_classes
    )
    return jax.vmap(of_image)(labels, predictions), predictions.astype(jnp.uint8)


@dataclasses.dataclass(frozen=True)
class _Example:
    """One example, ready for the network; or, with a batch axis and ids, several."""

    name: str | list[str]
    image: np.ndarray
    label: np.ndarray


def _load(
    source: RandomAccess,
    transform: Transform,
    num_classes: int,
    index: int,
    *,
    need_labels: bool,
) -> _Example:
    """Network input and full-size label of one example, checked."""
    record = source[index]
    if "label" not in record and not need_labels:
        size = record["image"].shape[:2]
        record = {**record, "label": np.full(size, IGNORE, np.uint8)}
    if "label" not in record:
        raise DataError(
            f"Example {record.get('id', index)!r} has no ground truth to evaluate on.",
            hint="Evaluate on a labelled split: set task.target.eval to one.",
        )
    arrays = transform(record, np.random.default_rng(index))
    label = arrays.get("labels", record["label"])
    wrong = (label >= num_classes) & (label != IGNORE)
    if wrong.any():
        raise DataError(
            f"Label of {record.get('id', index)!r} holds id {int(label[wrong][0])}; "
            f"expected train ids below {num_classes}, or {IGNORE}.",
            hint="Rebuild the dataset for this class space with its data_prep script.",
        )
    return _Example(record["id"], arrays["images"], label)


def _own() -> slice:
    """This process's share of the examples."""
    return slice(jax.process_index(), None, jax.process_count())


def _read_ahead(
    load: Callable[[int], _Example], indices: Iterable[int]
) -> Iterator[_Example]:
    """Examples in order, decoded by threads a few images ahead."""
    with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
        remaining = iter(indices)
        queue = collections.deque(
            pool.submit(load, index)
            for index in itertools.islice(remaining, _READ_AHEAD)
        )
        while queue:
            example = queue.popleft().result()
            queue.extend(pool.submit(load, i) for i in itertools.islice(remaining, 1))
            yield example


def _batches(examples: Iterable[_Example], batch_size: int) -> Iterator[_Example]:
    """Batches of equal sizes, under the names of their real images.

    The last of a size is filled up with ignored copies, so that it compiles once.
    """
    groups = collections.defaultdict(list)
    for example in examples:
        group = groups[example.image.shape, example.label.shape]
        group.append(example)
        if len(group) == batch_size:
            yield _stacked(group)
            group.clear()
    for group in groups.values():
        if group:
            names = [e.name for e in group]
            blank = np.full_like(group[0].label, IGNORE)
            copy = dataclasses.replace(group[0], label=blank)
            group += [copy] * (batch_size - len(group))
            yield dataclasses.replace(_stacked(group), name=names)


def _stacked(group: Sequence[_Example]) -> _Example:
    return _Example(
        [e.name for e in group],
        np.stack([e.image for e in group]),
        np.stack([e.label for e in group]),
    )


def _place(
    variables: PyTree, batch_size: int, devices: Sequence[jax.Device] | None
) -> tuple[PyTree, NamedSharding]:
    """Variables on this process's devices, and how batches are split over them."""
    local = list(devices or jax.local_devices())
    local = local[: math.gcd(batch_size, len(local))]
    mesh = Mesh(np.array(local), ("data",))
    if jax.process_count() > 1:
        variables = jax.device_get(variables)
    variables = jax.device_put(variables, NamedSharding(mesh, PartitionSpec()))
    return variables, NamedSharding(mesh, PartitionSpec("data"))


class _Counts(NamedTuple):
    """Confusion matrix of all images, `overlaps` of each, number of images."""

    confusion: Int[np.ndarray, "c c"]
    images: Int[np.ndarray, "n k 3"]
    num_images: Int[np.ndarray, ""]

    def over_processes(self) -> "_Counts":
        """The sums, in one exchange."""
        flat = sum_over_processes(np.concatenate([x.reshape(-1) for x in self]))
        parts = np.split(flat, np.cumsum([x.size for x in self])[:-1])
        shapes = (x.shape for x in self)
        return _Counts(*(p.reshape(s) for p, s in zip(parts, shapes, strict=True)))


def _accumulate(
    batches: Iterable[_Example],
    count: Callable[[np.ndarray, np.ndarray], tuple[Int[Array, "b c c"], Array]],
    classes: ClassSpace,
    *,
    num_examples: int,
    on_batch: Callable[[int], None] | None,
    write: Write | None,
) -> _Counts:
    """What is counted in all processes; images stand in no particular order."""
    total = _Counts(
        np.zeros((classes.num_classes,) * 2, np.int64),
        np.zeros((num_examples, len(classes.image_means), 3), np.int64),
        np.zeros((), np.int64),
    )
    pending, of_images = collections.deque(), [total.images[:0]]

    def take() -> None:
        names, counts, predictions = pending.popleft()
        counts = np.asarray(counts)[: len(names)].astype(np.int64)
        total.confusion[...] += counts.sum(axis=0)
        of_images.append(confusion_lib.overlaps(counts, classes.image_means))
        if write:
            # the last of a batch may be copies, which have no name
            for name, prediction in zip(names, np.asarray(predictions), strict=False):
                write(name, prediction)

    for batch in batches:
        pending.append((batch.name, *count(batch.image, batch.label)))
        if len(pending) > _IN_FLIGHT:
            take()
        total.num_images[...] += len(batch.name)
        if on_batch:
            on_batch(int(total.num_images))
    while pending:
        take()
    total.images[_own()] = np.concatenate(of_images)
    return total.over_processes()


def evaluate(
    model: nn.Module,
    variables: PyTree,
    source: RandomAccess,
    *,
    transform: Transform,
    batch_size: int,
    classes: ClassSpace,
    views: Views = SINGLE,
    absent_classes: str = "skip",
    devices: Sequence[jax.Device] | None = None,
    on_batch: Callable[[int], None] | None = None,
    write: Write | None = None,
) -> Result:
    """Confusion matrix and scores of a network on a labelled split.

    Counts are integers and summed exactly, so the result does not depend on batch
    size, number of devices or number of processes. Every process must call this: each
    takes its share of the images and all get the same result.

    Args:
        model: the network.
        variables: its parameters and statistics.
        source: labelled examples, random access; sizes may differ.
        transform: host side; gives `images` uint8[h,w,3] at network input size and, if
            it changes them, `labels`. Predictions are scored at the labels' size.
        batch_size: images per process and step; memory grows with it.
        classes: the class space of the network.
        views: flips and scales averaged, and how.
        absent_classes: what classes without any pixel count in the means.
        devices: local devices to use; all that divide the batch by default.
        on_batch: told the number of images done, for a progress bar.
        write: given every prediction, at the label's size. Then examples may lack a
            label: they are predicted at their own size, and not scored.

    Raises:
        DataError: an empty or unlabelled split, or labels of another class space.
    """
    if not len(source):
        raise DataError(
            "The evaluation split is empty.",
            hint="Check task.target.eval and the prepared dataset.",
        )
    started = time.perf_counter()
    variables, place = _place(variables, batch_size, devices)

    def count(images, labels):
        images, labels = jax.device_put((images, labels), place)
        return _count(
            network_logits(model, variables, images, views),
            labels,
            views=views,
            input_size=images.shape[1:3],
            num_classes=classes.num_classes,
        )

    load = functools.partial(
        _load, source, transform, classes.num_classes, need_labels=write is None
    )
    indices = range(len(source))[_own()]
    total = _accumulate(
        _batches(_read_ahead(load, indices), batch_size),
        count,
        classes,
        num_examples=len(source),
        on_batch=on_batch,
        write=write,
    )
    return Result(
        confusion=total.confusion,
        scores=confusion_lib.scores(
            total.confusion, classes, absent=absent_classes, images=total.images
        ),
        classes=classes,
        num_images=int(total.num_images),
        seconds=time.perf_counter() - started,
    )


def pseudo_label_quality(
    store: PseudoLabelStore,
    name: str,
    source: RandomAccess,
    classes: ClassSpace,
) -> confusion_lib.LabelQuality:
    """Coverage and accuracy of a round's pseudo-labels; for reports only.

    Ground truth, where the source carries it, is compared at the pseudo-labels' size
    (nearest neighbour); without any only the coverage is known.

    Args:
        store: the round's label maps.
        name: which of its maps.
        source: the split they were made for, not empty, with labels or without;
            images are not looked at.
        classes: the class space.
    """

    def count(index: int) -> Int[np.ndarray, "n n"]:
        record = source[index]
        pseudo = store.read(name, record["id"])
        labels = record.get("label")
        if labels is not None and labels.shape != pseudo.shape:
            size = (pseudo.shape[1], pseudo.shape[0])
            resized = Image.fromarray(labels).resize(size, Image.Resampling.NEAREST)
            labels = np.asarray(resized)
        return confusion_lib.label_counts(labels, pseudo, classes.num_classes)

    with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
        total = sum(pool.map(count, range(len(source))))
    return confusion_lib.label_quality(total)


def format_table(result: Result, *, network: str, split: str = "") -> str:
    """A text table: per-class IoU and accuracy, then every mean by its subset's name.

    Dice stands beside IoU where the class space asks for it, and so do means over
    images.

    Args:
        result: of `evaluate`.
        network: which network was evaluated, `teacher` or `student`.
        split: the split's name, for the title.
    """

    def cell(value: float) -> str:
        return f"{'-' if math.isnan(value) else f'{100 * value:.2f}':>9}"

    classes, scores, dice = result.classes, result.scores, result.classes.dice
    width = max(map(len, (*classes.names, *scores.subsets, "pixel accuracy")))
    title = f"{network}, {split + ', ' if split else ''}{result.num_images} images"
    columns = ("IoU %", "Dice %", "acc %") if dice else ("IoU %", "acc %")
    rule = "-" * (width + 9 * len(columns))
    head = f"{'class':<{width}}" + "".join(f"{name:>9}" for name in columns)
    lines = [title, rule, head, rule]
    for i, name in enumerate(classes.names):
        values = (scores.iou[i], scores.dice[i], scores.class_accuracy[i])
        shown = values if dice else values[::2]
        lines.append(f"{name:<{width}}" + "".join(map(cell, shown)))
    lines.append(rule)

    def mean_line(name, iou, of_dice, what):
        cells = cell(iou) + (cell(of_dice) if dice else "")
        return f"{name:<{width}}{cells}   {network}, mean of {what}"

    for name, ids in classes.subsets.items():
        values = (scores.subsets[name], scores.dice_subsets[name])
        lines.append(mean_line(name, *values, f"{len(ids)} classes"))
    for name, mean in scores.image_means.items():
        values = (mean.iou, mean.dice)
        lines.append(mean_line(name, *values, f"{mean.num_images} images"))
    lines.append(f"{'pixel accuracy':<{width}}{cell(scores.accuracy)}   {network}")
    return "\n".join(lines)
