"""Time, memory and error of class-balanced thresholds over many score maps.

The maps are made on the device as they are needed, so nothing but the selector grows
with their number.
"""

import logging
import multiprocessing
import pathlib
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from sfda_jax.ops.processes import total
from sfda_jax.pseudo_labels.class_balanced import Selector, sampled_places
from sfda_jax.train.memory import device_peak, host_peak_gib

VARIANTS = ("exact_spool", "exact_radix", "hist", "keep_all")

_log = logging.getLogger(__name__)

_LINE = (
    "%(variant)s, %(images)s maps: %(pass_seconds)s s, peak memory %(host_peak_gib)s "
    "GiB, kept %(kept_gib)s GiB."
)

_SEEDS = 2
_SMOOTH = 32  # pixels from one random logit to the next
_SHARPNESS = 4.0
_PIXEL = 5  # bytes of a class and a confidence
_GIB = 2**30


def bench_thresholds(
    num_images: int,
    *,
    size: tuple[int, int] = (512, 1024),
    num_classes: int = 19,
    portion: float = 0.2,
    keep_limit_gib: float = 4.0,
) -> list[dict[str, Any]]:
    """One row per way to accumulate confidences, each in a process of its own.

    The last row keeps every pixel's class and confidence in memory and sorts: what the
    others avoid. It takes as many maps as fit into `keep_limit_gib`.

    Args:
        num_images: score maps streamed.
        size: (height, width) of a map.
        num_classes: of the maps.
        portion: of the thresholds.
        keep_limit_gib: bounds the last row's memory.

    Returns:
        Rows of: variant, images, passes, pass_seconds (without making the maps),
        of these device_seconds (argmax, maximum, transfer), host_seconds and
        settle_seconds (after the last map of a pass), generate_seconds (apart),
        host_start_gib and host_peak_gib (of the process: when the maps begin, at most),
        device_peak_gib where the device tells, kept_gib (spool file, counts or values),
        needed_gib (the same for `num_images`), worst_error: the largest distance of a
        threshold from the sorted one, where all maps were kept, else from exact_radix.
    """
    spawn = multiprocessing.get_context("spawn")
    rows, thresholds = [], {}
    for variant in VARIANTS:
        images = num_images
        if variant == "keep_all":
            fit = int(keep_limit_gib * _GIB) // (_PIXEL * size[0] * size[1])
            images = min(num_images, max(fit, 1))
        with spawn.Pool(1) as pool:
            arguments = (variant, images, size, num_classes, portion)
            row, thresholds[variant] = pool.apply(_measure, arguments)
        row["needed_gib"] = row["kept_gib"]
        if variant in ("exact_spool", "keep_all"):
            row["needed_gib"] = round(row["kept_gib"] * num_images / images, 3)
        rows.append(row)
        _log.info(_LINE, row)
    whole = rows[-1]["images"] == num_images
    reference = thresholds["keep_all" if whole else "exact_radix"]
    for row in rows:
        error = np.abs(thresholds[row["variant"]] - reference).max()
        comparable = row["images"] == num_images
        row["worst_error"] = float(f"{error:.2e}") if comparable else None
    return rows


def make_scores(
    size: tuple[int, int], num_classes: int
) -> Callable[[Int[Array, ""]], Float[Array, "1 h w c"]]:
    """The index of an image → its smooth random class probabilities, on the device."""
    rows, columns = (-(-side // _SMOOTH) + 1 for side in size)
    shape = (_SEEDS, rows, columns, num_classes)
    small = _SHARPNESS * jax.random.normal(jax.random.key(0), shape)
    logits = jax.image.resize(small, (_SEEDS, *size, num_classes), "linear")

    @jax.jit
    def mixed(logits, index):
        # the golden ratio's multiples never repeat, so no two maps are equal
        contrast = 0.5 + jnp.mod(index.astype(jnp.float32) * 0.618034, 1.0)
        return jax.nn.softmax(contrast * logits[index % _SEEDS])[None]

    def scores(index):
        return mixed(logits, index)

    return scores


class _KeepAll:
    """Every pixel's class and confidence in memory, sorted at the end."""

    def __init__(self, selector: Selector, num_classes: int):
        self.kept: list[dict[str, np.ndarray]] = []
        self.selector, self.num_classes = selector, num_classes

    def add(self, measured: dict[str, np.ndarray]) -> None:
        """Keeps one batch."""
        self.kept.append(measured)

    def settle(self) -> np.ndarray:
        """The thresholds, by sorting."""
        lists: list[list[np.ndarray]] = [[] for _ in range(self.num_classes)]
        stride = self.selector.stride
        for measured in self.kept:
            labels, values = measured["labels"][0], measured["confidence"].ravel()
            pixels = np.bincount(labels.ravel(), minlength=self.num_classes)
            places = sampled_places(labels, pixels, stride=stride)
            ends = np.cumsum(-(-pixels // stride))
            for c, part in enumerate(np.split(places, ends[:-1])):
                lists[c].append(values[part])
        found = np.ones(self.num_classes, np.float32)
        for c, parts in enumerate(lists):
            values = np.sort(np.concatenate([np.zeros(1, np.float32), *parts]))
            rank = int(np.floor(len(values) * self.selector.portion))
            if len(values) > 1 and rank:
                found[c] = values[-rank] or 1
        return found

    def kept_bytes(self) -> int:
        """Of all arrays."""
        return sum(array.nbytes for part in self.kept for array in part.values())


class _Streaming:
    """One of the selector's accumulators."""

    def __init__(self, selector: Selector, num_classes: int, scratch: pathlib.Path):
        self.selector, self.scratch = selector, scratch
        self.state = selector.init(num_classes)
        self.largest = 0

    def add(self, measured: dict[str, np.ndarray]) -> None:
        """Updates the state."""
        self.state = self.selector.update(self.state, measured, scratch=self.scratch)

    def settle(self) -> np.ndarray:
        """Ends a pass; thresholds after the last one."""
        self.largest = max(self.largest, self.kept_bytes())
        self.state = self.selector.settle(self.state, scratch=self.scratch, total=total)
        return self.selector.thresholds(self.state)

    def kept_bytes(self) -> int:
        """Of the state and of the files, at most until now."""
        arrays = sum(value.nbytes for value in self.state.values())
        files = sum(path.stat().st_size for path in self.scratch.iterdir())
        return max(self.largest, arrays + files)


def _measure(
    variant: str,
    num_images: int,
    size: tuple[int, int],
    num_classes: int,
    portion: float,
) -> tuple[dict[str, Any], np.ndarray]:
    generate = make_scores(size, num_classes)
    accumulate = "exact_spool" if variant == "keep_all" else variant
    selector = Selector(portion=portion, accumulate=accumulate)
    measure = jax.jit(selector.measure)

    def summarise(scores):
        # copies: on a CPU the host's arrays would be the device's
        return jax.tree.map(np.array, measure(scores))

    summarise(generate(jnp.int32(0)))
    started = host_peak_gib()
    seconds = dict.fromkeys(("generate", "device", "host", "settle"), 0.0)
    with tempfile.TemporaryDirectory() as folder:
        if variant == "keep_all":
            counted, passes = _KeepAll(selector, num_classes), 1
        else:
            counted = _Streaming(selector, num_classes, pathlib.Path(folder))
            passes = selector.num_measures
        for _ in range(passes):
            for index in range(num_images):
                scores = _timed(seconds, "generate", generate, jnp.int32(index))
                measured = _timed(seconds, "device", summarise, scores)
                _timed(seconds, "host", counted.add, measured)
            thresholds = _timed(seconds, "settle", counted.settle)
        kept = counted.kept_bytes()
    row = {
        "variant": variant,
        "images": num_images,
        "passes": passes,
        "pass_seconds": round(sum(seconds.values()) - seconds["generate"], 2),
        **{f"{name}_seconds": round(value, 2) for name, value in seconds.items()},
        "host_start_gib": started,
        "host_peak_gib": host_peak_gib(),
        **device_peak(),
        "kept_gib": round(kept / _GIB, 3),
    }
    return row, thresholds


def _timed(seconds: dict[str, float], name: str, function: Callable, *inputs: Any):
    began = time.perf_counter()
    result = jax.block_until_ready(function(*inputs))
    seconds[name] += time.perf_counter() - began
    return result
