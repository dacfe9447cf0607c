"""Batches as a pure function of (seed, step), read ahead by Grain."""

import dataclasses
import functools
import gc
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np
from jaxtyping import Int

from sfda_jax.errors import ConfigError, DataError, SfdaError
from sfda_jax.types import RandomAccess, StreamSpec, Transform

_SHUFFLE, _EXAMPLE = 0, 1  # keep the two kinds of generator apart

Arrays = dict[str, np.ndarray]


class Stream(Iterator[Any]):
    """Batches read ahead in the background; close it, or use it in a `with`."""

    def __init__(self, dataset: grain.IterDataset, workers: int = 0):
        self._iterator, self._workers = iter(dataset), workers

    def __next__(self) -> Any:
        try:
            return next(self._iterator)
        except (StopIteration, SfdaError):
            self.close()
            raise
        except Exception as error:
            self.close()
            raise DataError(
                f"Reading ahead stopped: {error}.",
                hint="Lower --config.data.workers if the machine ran out of memory.",
            ) from error

    def close(self) -> None:
        """Stops reading ahead; harmless when repeated."""
        self._iterator.close()
        if self._workers:
            # It holds on to the last batch of each worker, in a circle of references.
            self._iterator, self._workers = _Closed(), 0
            gc.collect()

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Closed(Iterator[Any]):
    """What is left of a stream: nothing to read, nothing to close."""

    def __next__(self) -> Any:
        raise StopIteration

    def close(self) -> None:
        """Nothing."""


def open_stream(
    source: RandomAccess,
    spec: StreamSpec,
    *,
    seed: Sequence[int],
    num_steps: int,
    start: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    workers: int = 0,
    threads: int = 4,
    prefetch: int = 8,
) -> Stream:
    """This process's part of training batches `start` to `num_steps - 1`.

    Position p of a stream, counted over global batches, fixes everything about its
    example: which one it is and the generator of its augmentation, made from (seed,
    p). So global batch k does not depend on processes, workers or `start`, and
    resuming needs no state. Process i holds rows `[i * B / P, (i + 1) * B / P)`.

    Args:
        source: the split; its records reach the transform with `index` added.
        spec: batch size, transform and order. Without an order every epoch is
            shuffled anew; an order shorter than the stream is repeated.
        seed: integers that name the stream, e.g. (seed, stage, round).
        num_steps: batches of the whole stream, those before `start` included.
        start: first batch to yield.
        process_index: which part of the global batch.
        process_count: number of parts.
        workers: processes to read with; 0 uses threads of this process. They pickle
            `source` and `spec`, and need absl flags to be parsed.
        threads: threads that read when `workers` is 0.
        prefetch: batches held ready.

    Yields:
        Arrays by name, batch axis first.

    Raises:
        ConfigError: the batch cannot be divided over the processes.
        DataError: an empty split, an order beyond its end; while reading, whatever a
            source or transform raised, with the example's id.
    """
    if spec.batch_size % process_count:
        raise ConfigError(
            f"batch_size {spec.batch_size} cannot be divided over {process_count} "
            "processes.",
            hint=f"Use a multiple of {process_count}.",
        )
    _check_order(source, spec.order)
    batches = _TrainBatches(
        source=source,
        spec=spec,
        seed=tuple(int(s) for s in seed),
        steps=range(start, num_steps),
        part=(process_index, process_count),
    )
    return _read_ahead(batches, workers=workers, threads=threads, prefetch=prefetch)


def evaluation_batches(
    source: RandomAccess,
    transform: Transform,
    batch_size: int,
    *,
    order: Int[np.ndarray, "_"] | None = None,
    pad: bool = False,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 4,
    prefetch: int = 4,
) -> Stream:
    """This process's part of one pass over a split, in fixed order.

    Args:
        source: the split.
        transform: called with a generator that is a function of the position.
        batch_size: global batch.
        order: positions to visit; None visits all in file order.
        pad: fill the last batch up with copies of its last example; otherwise it is
            smaller. Several processes always get it filled, as they must take the
            same number of equal steps.
        process_index: which part of every batch.
        process_count: number of parts.
        threads: threads that read.
        prefetch: batches held ready.

    Yields:
        `(ids, arrays)`: the names of the real examples, which come first, and arrays
        by name, batch axis first.

    Raises:
        ConfigError: the batch cannot be divided over the processes.
        DataError: as `open_stream`.
    """
    if batch_size % process_count:
        raise ConfigError(
            f"batch_size {batch_size} cannot be divided over {process_count} "
            "processes.",
            hint=f"Use a multiple of {process_count}.",
        )
    _check_order(source, order)
    batches = _EvaluationBatches(
        source=source,
        transform=transform,
        order=np.arange(len(source)) if order is None else order,
        batch_size=batch_size,
        pad=pad or process_count > 1,
        part=(process_index, process_count),
    )
    return _read_ahead(batches, workers=0, threads=threads, prefetch=prefetch)


def _read_ahead(batches, *, workers: int, threads: int, prefetch: int) -> Stream:
    reading = grain.ReadOptions(
        num_threads=1 if workers else threads, prefetch_buffer_size=prefetch
    )
    dataset = grain.MapDataset.source(batches).to_iter_dataset(reading)
    if workers:
        dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    return Stream(dataset, workers)


def _check_order(source: RandomAccess, order: np.ndarray | None) -> None:
    if len(source) == 0:
        raise DataError("The split is empty.")
    if order is None:
        return
    if len(order) == 0:
        raise DataError("The order of examples to visit is empty.")
    if order.min() < 0 or order.max() >= len(source):
        raise DataError(
            f"The order visits examples {order.min()} to {order.max()}; the split has "
            f"{len(source)}."
        )


@functools.lru_cache(maxsize=8)
def _epoch_order(seed: tuple[int, ...], epoch: int, size: int) -> np.ndarray:
    return np.random.default_rng((*seed, _SHUFFLE, epoch)).permutation(size)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _TrainBatches:
    """Batch k of a training stream, `batches[k]`."""

    source: RandomAccess
    spec: StreamSpec
    seed: tuple[int, ...]
    steps: range
    part: tuple[int, int]

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, k: int) -> Arrays:
        index, count = self.part
        size = self.spec.batch_size // count
        first = self.steps[k] * self.spec.batch_size + index * size
        return _stack([self._example(p) for p in range(first, first + size)])[1]

    def _example(self, position: int) -> tuple[str, Arrays]:
        order = self.spec.order
        if order is not None:
            index = order[position % len(order)]
        else:
            epoch, place = divmod(position, len(self.source))
            index = _epoch_order(self.seed, epoch, len(self.source))[place]
        rng = np.random.default_rng((*self.seed, _EXAMPLE, position))
        return _transformed(self.source, int(index), self.spec.transform, rng)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _EvaluationBatches:
    """Batch k of one pass, `batches[k]`, with the ids of its real examples."""

    source: RandomAccess
    transform: Transform
    order: np.ndarray
    batch_size: int
    pad: bool
    part: tuple[int, int]

    def __len__(self) -> int:
        return -(-len(self.order) // self.batch_size)

    def __getitem__(self, k: int) -> tuple[list[str], Arrays]:
        index, count = self.part
        size = self.batch_size // count
        first = k * self.batch_size + index * size
        real = range(first, min(first + size, len(self.order)))
        # a process whose part is all padding still needs an example to copy
        examples = [self._example(p) for p in real or [len(self.order) - 1]]
        if self.pad:
            examples += [examples[-1]] * (size - len(examples))
        ids, arrays = _stack(examples)
        return ids[: len(real)], arrays

    def _example(self, position: int) -> tuple[str, Arrays]:
        rng = np.random.default_rng(position)
        return _transformed(self.source, int(self.order[position]), self.transform, rng)


def _transformed(
    source: RandomAccess, index: int, transform: Transform, rng: np.random.Generator
) -> tuple[str, Arrays]:
    """(id, arrays) of one example; faults become errors that name it."""
    record: Mapping[str, Any] = {}
    try:
        record = source[index]
        return record["id"], transform({**record, "index": index}, rng)
    except Exception as error:
        known = isinstance(error, SfdaError)
        cause = error.message if known else f"{type(error).__name__}: {error}"
        name = repr(record["id"]) if "id" in record else "that could not be read"
        raise DataError(
            f"Example {name} (number {index} of its split): {cause}",
            hint=error.hint if known else "",
        ) from error


def _stack(examples: list[tuple[str, Arrays]]) -> tuple[list[str], Arrays]:
    """Ids, and arrays with a batch axis in front."""
    first_id, first = examples[0]
    for other_id, other in examples:
        for name, array in first.items():
            if np.shape(other[name]) != np.shape(array):
                raise DataError(
                    f"{name} of {other_id!r} has shape {np.shape(other[name])}, that "
                    f"of {first_id!r} {np.shape(array)}; a batch needs one shape.",
                    hint="Resize or crop them to one size, or use batch_size 1.",
                )
    stacked = {name: np.stack([e[name] for _, e in examples]) for name in first}
    return [name for name, _ in examples], stacked
