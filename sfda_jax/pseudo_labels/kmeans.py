"""k-means over rows of features: seeds and Lloyd's iterations.

Two of BiSMAP's stages use it (its specification): the target centres of the
transferability maps (section 5.1: k-means++ seeds, scikit-learn's stop) and the first
means of the mixtures (section 5.3: the cheapest of random restarts).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from sfda_jax.errors import DataError
from sfda_jax.pseudo_labels.placed_rows import Rows

_EXACT = jax.lax.Precision.HIGHEST
_MAX_ITER = 300  # scikit-learn's


class Centres(NamedTuple):
    """Where Lloyd's iterations ended."""

    centres: Float[np.ndarray, "k d"]
    num_iters: int


def lloyd(
    rows: Rows,
    centres: Float[np.ndarray, "k d"],
    *,
    settled: Callable[[Float[np.ndarray, " k"]], bool],
    max_iter: int = _MAX_ITER,
) -> Centres:
    """Centres that are the means of their rows.

    A row belongs to the nearest centre, the lowest index on ties. A centre without
    rows stays where it is (in the reference it becomes NaN).

    Args:
        rows: of all processes.
        centres: where to begin.
        settled: whether to stop, given how far each centre moved.
        max_iter: stop in any case.
    """
    num_iters = 0
    while True:
        num_iters += 1
        counts, sums = rows.sum(_cluster_sums, centres, rows.mean)
        filled = counts > 0
        means = rows.mean + sums / np.where(filled, counts, 1)[:, None]
        moved = np.where(filled[:, None], means, centres)
        distances = np.linalg.norm(moved - centres, axis=1)
        centres = moved
        if settled(distances) or num_iters >= max_iter:
            return Centres(centres, num_iters)


def cluster(
    rows: Rows,
    centres: Float[np.ndarray, "k d"],
    *,
    tol: float = 1e-4,
    max_iter: int = _MAX_ITER,
) -> Centres:
    """Lloyd's iterations with scikit-learn's stop (section 5.1).

    It also stops where no row changes its centre; then no centre moves either.

    Args:
        rows: of all processes.
        centres: seeds, as from `seed_centres`.
        tol: of the centres' summed squared movement, in units of the features' mean
            variance.
        max_iter: stop in any case.
    """
    variance = rows.sum(_squares, rows.mean) / rows.count
    limit = tol * variance.mean()
    return lloyd(
        rows, centres, settled=lambda d: (d * d).sum() <= limit, max_iter=max_iter
    )


def assign(
    rows: Rows, centres: Float[np.ndarray, "k d"]
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """The nearest centre of each row of this process, and its squared distance."""
    return rows.map(_nearest, centres, rows.mean)


def seed_centres(
    rows: Rows, num_centres: int, rng: np.random.Generator, *, trials: int = 0
) -> Float[np.ndarray, "k d"]:
    """k-means++ seeds (Arthur and Vassilvitskii, 2007), greedy as in scikit-learn.

    Args:
        rows: of all processes, at least one.
        num_centres: K.
        rng: in the same state on every process.
        trials: candidates for each further seed, of which the best is taken; 0 for
            2 + int(ln K), 1 for the plain form.
    """
    _check_count(rows, 1)
    trials = trials or 2 + int(np.log(num_centres))
    seeds = rows.take(rng.integers(rows.count, size=1))
    closest = _squared_to(rows, seeds)[:, 0]
    while len(seeds) < num_centres:
        candidates = _drawn(rows, closest, rng.random(trials))
        distances = np.minimum(_squared_to(rows, candidates), closest[:, None])
        best = np.argmin(rows.total(distances.sum(0, dtype=np.float64)))
        seeds = np.concatenate([seeds, candidates[best : best + 1]])
        closest = distances[:, best]
    return seeds


def draw_restarts(
    rng: np.random.Generator, num_rows: int, *, num_centres: int, restarts: int
) -> Int[np.ndarray, "t k"]:
    """Places of the rows that each restart begins with, distinct within a restart."""
    return np.stack(
        [
            rng.choice(num_rows, num_centres, replace=False, shuffle=False)
            for _ in range(restarts)
        ]
    )


class Start(NamedTuple):
    """The cheapest restart, carried on by Lloyd's iterations."""

    centres: Float[np.ndarray, "k d"]
    costs: Float[np.ndarray, " t"]
    best: int


def cheapest_start(
    rows: Rows,
    places: Int[np.ndarray, "t k"],
    *,
    min_delta: float = 1e-3,
    max_iter: int = _MAX_ITER,
) -> Start:
    """The first means of a mixture (section 5.3).

    The reference scales all features by their smallest and largest value; here the
    distances are scaled instead.

    Args:
        rows: of all processes.
        places: the rows of each restart; the first is taken on ties.
        min_delta: stop where no centre moves further, in scaled units.
        max_iter: stop in any case.

    Returns:
        Centres in the features' own units, and each restart's summed distance
        (scaled) of rows to their nearest seed.
    """
    _check_count(rows, places.shape[1])
    ends = np.array([np.inf, -np.inf], rows.local.dtype)
    if len(rows.local):
        ends[:] = rows.local.min(), rows.local.max()
    ends = rows.per_process(ends)
    scale = float(ends[:, 1].max() - ends[:, 0].min())
    seeds = rows.take(places)
    costs = rows.sum(_seed_costs, seeds, rows.mean)
    best = int(np.argmin(costs))
    found = lloyd(
        rows,
        seeds[best],
        settled=lambda distances: distances.max() <= min_delta * scale,
        max_iter=max_iter,
    )
    return Start(found.centres, costs / rows.local.dtype.type(scale or 1), best)


def _check_count(rows: Rows, least: int) -> None:
    if rows.count < least:
        raise DataError(
            f"k-means of {rows.count} rows: at least {least} are needed.",
            hint="Collect more features, or ask for fewer centres.",
        )


def _drawn(
    rows: Rows, weights: Float[np.ndarray, " n"], draws: Float[np.ndarray, " t"]
) -> Float[np.ndarray, "t d"]:
    """Rows chosen with probability proportional to their weights."""
    cumulative = np.cumsum(weights, dtype=np.float64)
    own = cumulative[-1] if len(cumulative) else 0.0
    sums = rows.per_process(np.array(own))
    counts = rows.per_process(np.array(len(weights)))
    # the same on every process: each draw falls to one of them
    starts, rank = np.cumsum(sums) - sums, jax.process_index()
    wanted = draws * sums.sum()
    mine = np.searchsorted(starts, wanted, side="right") - 1 == rank
    places = np.zeros(len(draws), np.int64)
    if len(weights):
        inside = np.searchsorted(cumulative, wanted[mine] - starts[rank], side="right")
        places[mine] = np.minimum(inside, len(weights) - 1) + counts[:rank].sum()
    return rows.take(rows.total(places))


def _squared_to(
    rows: Rows, points: Float[np.ndarray, "t d"]
) -> Float[np.ndarray, "n t"]:
    return rows.map(_squared_distances, points, rows.mean)


def _squared_distances(
    x: Float[Array, "c d"], points: Float[Array, "t d"], origin: Float[Array, " d"]
) -> Float[Array, "c t"]:
    """From rows to points, by one product of matrices, reckoned from `origin`."""
    y, z = x - origin[None], points - origin[None]
    products = jnp.dot(y, z.T, precision=_EXACT)
    lengths = (y * y).sum(1)[:, None] + (z * z).sum(1)[None]
    return jnp.maximum(lengths - 2 * products, 0)


def _nearest(
    x: Float[Array, "c d"], centres: Float[Array, "k d"], origin: Float[Array, " d"]
) -> tuple[Int[Array, " c"], Float[Array, " c"]]:
    squared = _squared_distances(x, centres, origin)
    return jnp.argmin(squared, axis=1), squared.min(1)


def _cluster_sums(
    x: Float[Array, "c d"],
    weights: Float[Array, " c"],
    centres: Float[Array, "k d"],
    origin: Float[Array, " d"],
) -> tuple[Float[Array, " k"], Float[Array, "k d"]]:
    """Rows of each centre, and the sum of what they are from `origin`."""
    labels, _ = _nearest(x, centres, origin)
    one_hot = jax.nn.one_hot(labels, len(centres), dtype=x.dtype) * weights[:, None]
    sums = jnp.dot(one_hot.T, x - origin[None], precision=_EXACT)
    return one_hot.sum(0), sums


def _seed_costs(
    x: Float[Array, "c d"],
    weights: Float[Array, " c"],
    seeds: Float[Array, "t k d"],
    origin: Float[Array, " d"],
) -> Float[Array, " t"]:
    """The summed distance (not squared) of rows to the nearest of each set of seeds."""
    flat = seeds.reshape(-1, seeds.shape[2])
    squared = _squared_distances(x, flat, origin)
    nearest = squared.reshape(len(x), *seeds.shape[:2]).min(2)
    return jnp.dot(weights, jnp.sqrt(nearest), precision=_EXACT)


def _squares(
    x: Float[Array, "c d"], weights: Float[Array, " c"], origin: Float[Array, " d"]
) -> Float[Array, " d"]:
    y = x - origin[None]
    return jnp.dot(weights, y * y, precision=_EXACT)
