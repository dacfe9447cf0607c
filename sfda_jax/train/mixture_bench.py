"""Time, memory and agreement of the mixtures' fit, beside scikit-learn's.

Both take the same rows, first means and number of EM steps; each runs in a process of
its own, one class after the other, and makes a class's rows when it needs them.
"""

import collections
import dataclasses
import functools
import importlib.util
import logging
import multiprocessing
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float32

from sfda_jax.errors import ConfigError
from sfda_jax.pseudo_labels.kmeans import cheapest_start, draw_restarts
from sfda_jax.pseudo_labels.mixture_fit import MixtureSettings, fit, start_mixture
from sfda_jax.pseudo_labels.placed_rows import place_rows
from sfda_jax.train.memory import device_peak, host_peak_gib

_log = logging.getLogger(__name__)

_LINE = "%(variant)s: EM in %(fit_seconds)s s, peak memory %(host_peak_gib)s GiB."

_GIB = 2**30


def bench_mixtures(
    num_rows: int,
    *,
    num_classes: int = 19,
    components: int = 8,
    num_dims: int = 256,
    num_steps: int = 10,
) -> list[dict[str, Any]]:
    """One row for this package, one for scikit-learn's diagonal `GaussianMixture`.

    Args:
        num_rows: of all classes together, in float32.
        num_classes: mixtures.
        components: of each.
        num_dims: of a row.
        num_steps: EM steps of each fit, however it converges.

    Returns:
        Rows of: variant, rows, classes, steps, data_gib (of all rows), class_gib (of
        the largest class), init_seconds (k-means, which both start from),
        compile_seconds (with two steps of the first class), fit_seconds and
        fit_cpu_seconds (EM; the latter summed over threads), host_start_gib and
        host_peak_gib (of the process: with the first class's rows made, at most),
        device_peak_gib where the device tells, score (mean log-density, nats),
        worst_difference (relative, of a class's score from the other's) and slower
        (than the faster one, as a ratio).

    Raises:
        ConfigError: scikit-learn is not installed.
    """
    if importlib.util.find_spec("sklearn") is None:
        raise ConfigError(
            "The mixtures are compared with scikit-learn's, which is not installed.",
            hint="pip install scikit-learn",
        )
    counts = [len(part) for part in np.array_split(np.arange(num_rows), num_classes)]
    shared = {
        "variant": "",
        "rows": num_rows,
        "classes": num_classes,
        "steps": num_steps,
        "data_gib": round(num_rows * num_dims * 4 / _GIB, 3),
        "class_gib": round(counts[0] * num_dims * 4 / _GIB, 3),
    }
    size = (components, num_dims)
    ours, means, scores = _alone(_fit_ours, counts, size, num_steps)
    theirs, _, their_scores = _alone(_fit_theirs, counts, means, num_steps)
    rows = [shared | ours, shared | theirs]
    difference = np.abs(scores / their_scores - 1).max()
    fastest = min(row["fit_seconds"] for row in rows)
    for row, found in zip(rows, (scores, their_scores), strict=True):
        row["score"] = round(float(np.average(found, weights=counts)), 4)
        row["worst_difference"] = float(f"{difference:.2e}")
        row["slower"] = round(row["fit_seconds"] / fastest, 2)
    return rows


def make_rows(
    index: int, count: int, size: tuple[int, int]
) -> Float32[np.ndarray, "n d"]:
    """A class's rows: a mixture of Gaussians behind a ReLU, some dimensions dead.

    Args:
        index: of the class, its seed.
        count: rows.
        size: components and dimensions.
    """
    rng = np.random.default_rng(index)
    centres = rng.normal(0, 1, size).astype(np.float32)
    widths = rng.uniform(0.05, 0.5, size).astype(np.float32)
    centres[:, rng.random(size[1]) < 0.1] = -9
    rows = rng.standard_normal((count, size[1]), np.float32)
    parts = np.array_split(rows, size[0])
    for part, centre, width in zip(parts, centres, widths, strict=True):
        part *= width
        part += centre
    return np.maximum(rows, 0, out=rows)


def _alone(function: Callable, *arguments: Any) -> Any:
    """A function's result from a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        result = pool.apply(function, arguments)
    _log.info(_LINE, result[0])
    return result


def _fit_ours(counts: list[int], size: tuple[int, int], num_steps: int):
    """A row of the table, the first means, and each class's score."""
    settings = MixtureSettings(
        components=size[0], delta=-np.inf, max_iter=num_steps - 1
    )
    place = functools.partial(place_rows, capacity=counts[0], chunk=settings.chunk)
    clocks, rng = collections.defaultdict(_Clock), np.random.default_rng(0)
    means, scores, start_gib = [], [], 0.0
    for index, count in enumerate(counts):
        x = make_rows(index, count, size)
        start_gib = start_gib or host_peak_gib()
        with clocks["init"]:
            places = draw_restarts(
                rng, count, num_centres=size[0], restarts=settings.restarts
            )
            found = cheapest_start(place(x), places, min_delta=settings.min_delta)
        start = start_mixture(found.centres)
        if not index:
            with clocks["compile"]:
                fit(place(x), start, settings=dataclasses.replace(settings, max_iter=1))
        with clocks["fit"]:
            scores.append(fit(place(x), start, settings=settings).scores[-1])
        means.append(found.centres)
    return _row("sfda_jax", clocks, start_gib), means, np.array(scores)


def _fit_theirs(counts: list[int], means: list[np.ndarray], num_steps: int):
    """The same, from the means given."""
    from sklearn.mixture import GaussianMixture

    warnings.simplefilter("ignore")  # it has not converged, nor should it
    clocks = collections.defaultdict(_Clock)
    scores, start_gib = [], 0.0
    for index, (count, centres) in enumerate(zip(counts, means, strict=True)):
        x = make_rows(index, count, centres.shape)
        start_gib = start_gib or host_peak_gib()
        mixture = GaussianMixture(
            len(centres),
            covariance_type="diag",
            tol=0,
            reg_covar=MixtureSettings.eps,
            max_iter=num_steps,
            weights_init=np.full(len(centres), 1 / len(centres), np.float32),
            means_init=centres,
            precisions_init=np.ones_like(centres),
        )
        with clocks["fit"]:
            mixture.fit(x)
        scores.append(mixture.score(x))
    return _row("scikit-learn", clocks, start_gib), means, np.array(scores)


class _Clock:
    """Seconds within its blocks, by the wall and summed over threads."""

    def __init__(self):
        self.wall = self.cpu = 0.0

    def __enter__(self):
        self.wall -= time.perf_counter()
        self.cpu -= time.process_time()

    def __exit__(self, *_raised):
        self.wall += time.perf_counter()
        self.cpu += time.process_time()


def _row(variant: str, clocks: Mapping[str, _Clock], start_gib: float):
    return {
        "variant": variant,
        **{f"{name}_seconds": round(clock.wall, 2) for name, clock in clocks.items()},
        "fit_cpu_seconds": round(clocks["fit"].cpu, 2),
        "host_start_gib": start_gib,
        "host_peak_gib": host_peak_gib(),
        **device_peak(),
    }
