"""Fitting Gaussian mixtures by EM (BiSMAP's specification, sections 5.3 and 9).

EM needs three sums of the rows only. They are made chunk by chunk (`placed_rows`), and
equal the full batch's up to the order of summation. They are reckoned from the
mixture's `anchor`, so that narrow components keep their digits in float32.
"""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sfda_jax.errors import TrainingError
from sfda_jax.ops import processes
from sfda_jax.pseudo_labels.gaussian_mixtures import (
    Mixture,
    Mixtures,
    anchor,
    log_joint,
    row_features,
    stack_mixtures,
)
from sfda_jax.pseudo_labels.kmeans import cheapest_start, draw_restarts
from sfda_jax.pseudo_labels.placed_rows import CHUNK, Rows, place_rows
from sfda_jax.pseudo_labels.selector import Total

_EXACT = jax.lax.Precision.HIGHEST
_PRECISE = 1e-6  # relative error of a variance that costs no digit that matters
_TOLERATED = 4.0  # how much worse than from the best origin


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixtureSettings:
    """How the mixtures are fitted; the defaults are the published values.

    Attributes:
        components: K of each class.
        eps: added to variances and to each component's number of rows.
        delta: stop where the mean log-density grows by less, in nats.
        max_iter: further EM steps after the first.
        restarts: random sets of K rows that k-means may begin with.
        min_delta: stop of k-means, in units of the features' range.
        chunk: rows reckoned at a time.
    """

    components: int = 8
    eps: float = 1e-6
    delta: float = 1e-3
    max_iter: int = 100
    restarts: int = 20
    min_delta: float = 1e-3
    chunk: int = CHUNK


class Sums(NamedTuple):
    """What EM needs of rows, reckoned from an origin.

    Attributes:
        rows: how many.
        log_likelihood: summed log-density, nats.
        shares: rows of each component, S0.
        features: `row_features` summed with the components' shares: S2 and S1.
    """

    rows: Float[Array, ""]
    log_likelihood: Float[Array, ""]
    shares: Float[Array, " k"]
    features: Float[Array, "k m"]


class Fitted(NamedTuple):
    """A mixture and how the fit went."""

    mixture: Mixture
    scores: list[float]
    """Mean log-density after each EM step, nats."""


def start_mixture(mu: Float[np.ndarray, "k d"], *, full: bool = False) -> Mixture:
    """Equal weights and unit variances around given means, as the published fit has.

    Args:
        mu: first means.
        full: of full covariance.
    """
    k, d = mu.shape
    var = np.broadcast_to(np.eye(d, dtype=mu.dtype), (k, d, d)) if full else mu * 0 + 1
    pi = np.full(k, 1 / k, mu.dtype)
    return Mixture(pi=jnp.asarray(pi), mu=jnp.asarray(mu), var=jnp.asarray(var))


def row_sums(
    x: Float[Array, "n d"],
    weights: Float[Array, " n"],
    mixture: Mixture,
    origin: Float[Array, " d"],
) -> Sums:
    """The E-step's sums over rows.

    Args:
        x: rows.
        weights: 1, or 0 for rows that do not count.
        mixture: whose components share the rows.
        origin: where coordinates are reckoned from, as in `m_step`.
    """
    features = row_features(x - origin[None], full=mixture.var.ndim == 3)
    return _shared(log_joint(mixture, x, origin), weights, features)


def _sums_elsewhere(
    x: Float[Array, "n d"],
    weights: Float[Array, " n"],
    mixture: Mixture,
    origin: Float[Array, " d"],
) -> Sums:
    """The same sums, where `origin` suits them but not the mixture's densities."""
    features = row_features(x - origin[None], full=mixture.var.ndim == 3)
    return _shared(log_joint(mixture, x), weights, features)


def _shared(
    joint: Float[Array, "n k"],
    weights: Float[Array, " n"],
    features: Float[Array, "n m"],
) -> Sums:
    density = jax.nn.logsumexp(joint, axis=1)
    shares = jnp.exp(joint - density[:, None]) * weights[:, None]
    return Sums(
        rows=weights.sum(),
        log_likelihood=jnp.dot(weights, density, precision=_EXACT),
        shares=shares.sum(0),
        features=jnp.dot(shares.T, features, precision=_EXACT),
    )


def m_step(sums: Sums, origin: Float[Array, " d"], *, eps: float) -> Mixture:
    """The mixture that the E-step's sums speak for.

    Diagonal: N = S0 + eps, mu = S1/N, var = S2/N - 2 mu S1/N + mu^2 + eps. Full: the
    scatter about mu over S0, + eps I. pi = N / rows.

    Args:
        sums: from `row_sums`.
        origin: the sums'.
        eps: see `MixtureSettings`.
    """
    num_dims = len(origin)
    squares = sums.features[:, :-num_dims]
    linear = sums.features[:, -num_dims:]
    counts = sums.shares + eps
    # S1 / N, where S1 is of the rows themselves and not of what they are from origin
    moved = (linear - eps * origin[None]) / counts[:, None]
    mu = moved + origin[None]
    if squares.shape[1] == num_dims:
        shares = sums.shares[:, None]
        scatter = squares - 2 * moved * linear + shares * moved**2
        var = (jnp.maximum(scatter, 0) + eps * mu**2) / counts[:, None] + eps
    else:
        products = squares.reshape(-1, num_dims, num_dims)
        across = linear[:, :, None] * moved[:, None]
        shares = sums.shares[:, None, None]
        scatter = products - across - across.mT
        scatter += shares * moved[:, :, None] * moved[:, None]
        floor = jnp.finfo(sums.shares.dtype).tiny
        var = scatter / jnp.maximum(shares, floor)
        var += eps * jnp.eye(num_dims, dtype=var.dtype)[None]
    return Mixture(pi=counts / sums.rows, mu=mu, var=var)


def fit(
    rows: Rows, start: Mixture, *, settings: MixtureSettings, name: str = ""
) -> Fitted:
    """EM until the mean log-density no longer grows by `delta`.

    At least two steps, at most `max_iter` + 1. The last one stands, also where it went
    down.

    Args:
        rows: of all processes.
        start: its variances say whether the covariance is diagonal or full.
        settings: of which `components` is the start's.
        name: of the class, for the message.

    Raises:
        TrainingError: a log-density that is not finite.
    """
    mixture, scores = start, []
    while True:
        origin = _anchor(mixture)
        sums = rows.sum(row_sums, mixture, origin)
        score = float(sums.log_likelihood) / rows.count
        if not np.isfinite(score):
            raise TrainingError(
                f"The mixture of {name or 'a class'} has a mean log-density of {score} "
                f"after {len(scores)} steps over {rows.count} rows.",
                hint="Look for NaN or huge values in the features: is the checkpoint "
                "whole? Or fit fewer components, or a larger eps.",
            )
        if mixture is not start:
            gain = score - scores[-1] if scores else np.inf
            scores.append(score)
            if gain < settings.delta or len(scores) > settings.max_iter:
                return Fitted(mixture, scores)
        updated = _m_step(sums, origin, eps=settings.eps)
        better = _anchor(updated)
        # dimensions that have just become narrow elsewhere (mostly in the first steps)
        if _lost_digits(updated, origin) > _TOLERATED * _lost_digits(updated, better):
            sums = rows.sum(_sums_elsewhere, mixture, better)
            updated = _m_step(sums, better, eps=settings.eps)
        mixture = updated


def fit_stepwise(
    batches: Iterable[Float[np.ndarray, "b d"]],
    start: Mixture,
    *,
    eps: float = 1e-6,
    alpha: float = 0.6,
    total: Total = processes.total,
) -> Mixture:
    """Stepwise EM (Cappe and Moulines, 2009): rows are used as they come, and not kept.

    The sums of a row are averaged with rho_t = (t + 2)^-alpha, rho_0 = 1, and the
    mixture follows after every batch. Small batches (256) in random order and two
    passes come closest to EM over all rows; where many dimensions pile up at zero it
    may still end nats below.

    Args:
        batches: of one size on all processes, in random order.
        start: the first mixture.
        eps: see `MixtureSettings`.
        alpha: how fast the old is forgotten, in (0.5, 1].
        total: sum over processes.
    """
    mixture, average = start, None
    # averages keep one origin: where all variances are alike, narrow components are
    # rather found near zero (a ReLU's dead dimensions)
    origin = anchor(start.mu, jnp.abs(start.mu))
    for step, x in enumerate(batches):
        weights = np.ones(len(x), x.dtype)
        found = _row_sums(x, weights, mixture, origin)
        if jax.process_count() > 1:
            found = jax.tree.map(lambda leaf: total(np.asarray(leaf)), found)
        rho = 1.0 if average is None else (step + 2) ** -alpha
        average = found if average is None else _blend(average, found, rho=rho)
        mixture = _m_step(average, origin, eps=eps)
    return mixture


def blend(old: Sums, new: Sums, *, rho: float | Float[Array, ""]) -> Sums:
    """(1 - rho) old + rho new of what a row counts, as sums of the new one's rows."""
    scale = new.rows / old.rows
    return jax.tree.map(lambda a, b: (1 - rho) * scale * a + rho * b, old, new)


def fit_classes(
    pools: Sequence[Float[np.ndarray, "_ d"]],
    *,
    settings: MixtureSettings,
    rng: np.random.Generator,
    names: Sequence[str] = (),
    devices: Sequence[jax.Device] | None = None,
    total: Total = processes.total,
) -> tuple[Mixtures, list[list[float]]]:
    """The mixture of every class, of diagonal covariance; one class after the other.

    A class with fewer rows than components is not valid.

    Args:
        pools: each class's rows of this process, maybe none, of one D.
        settings: of k-means and EM.
        rng: in the same state on every process.
        names: of the classes, for messages.
        devices: of this process; all by default.
        total: sum over processes.

    Returns:
        The mixtures, and each class's scores after its EM steps (none if not valid).

    Raises:
        TrainingError: a log-density that is not finite.
    """
    capacity = max(len(pool) for pool in pools)
    place = functools.partial(
        place_rows, capacity=capacity, chunk=settings.chunk, devices=devices
    )
    mixtures, scores = [], []
    for index, pool in enumerate(pools):
        rows = place(pool, total=total)
        if rows.count < settings.components:
            mixtures.append(None)
            scores.append([])
            continue
        places = draw_restarts(
            rng,
            rows.count,
            num_centres=settings.components,
            restarts=settings.restarts,
        )
        means = cheapest_start(rows, places, min_delta=settings.min_delta).centres
        name = names[index] if names else f"class {index}"
        found = fit(rows, start_mixture(means), settings=settings, name=name)
        mixtures.append(found.mixture)
        scores.append(found.scores)
    dims = pools[0].shape[1]
    return stack_mixtures(mixtures, settings.components, dims), scores


_row_sums = jax.jit(row_sums)
_m_step = jax.jit(m_step, static_argnames="eps")
_blend = jax.jit(blend)


@jax.jit
def _lost_digits(mixture: Mixture, origin: Float[Array, " d"]) -> Float[Array, ""]:
    """The worst rounding of a variance reckoned from `origin`, in units of `_PRECISE`.

    At least 1: less is not worth another pass over the rows.
    """
    var = mixture.var
    if var.ndim == 3:
        var = jnp.diagonal(var, axis1=1, axis2=2)
    ratio = ((mixture.mu - origin[None]) ** 2 / var).max()
    return jnp.maximum(ratio * jnp.finfo(var.dtype).eps / _PRECISE, 1)


@jax.jit
def _anchor(mixture: Mixture) -> Float[Array, " d"]:
    return anchor(mixture.mu, mixture.var)
