"""EM: any chunks, devices and row order; float32's narrow places; stepwise EM."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sfda_jax.errors import TrainingError
from sfda_jax.pseudo_labels.gaussian_mixtures import log_density, log_joint
from sfda_jax.pseudo_labels.mixture_fit import (
    MixtureSettings,
    blend,
    fit,
    fit_classes,
    fit_stepwise,
    m_step,
    row_sums,
    start_mixture,
)
from sfda_jax.pseudo_labels.placed_rows import place_rows

SETTINGS = MixtureSettings(components=3)


def clustered(count=400, dims=6, *, seed=0, components=3):
    """Rows of a mixture behind a ReLU."""
    rng = np.random.default_rng(seed)
    middle = rng.normal(0, 2, (components, dims))
    rows = middle[rng.integers(0, components, count)]
    rows = rows + rng.normal(size=rows.shape) * rng.uniform(0.1, 1, dims)
    return np.maximum(rows, 0).astype(np.float32)


def placed(x, devices=1, **choice):
    return place_rows(x, devices=jax.devices()[:devices], **choice)


def assert_same(found, expected, **tolerance):
    for name in ("pi", "mu", "var"):
        one, other = getattr(found, name), getattr(expected, name)
        np.testing.assert_allclose(one, other, err_msg=name, **tolerance)


@pytest.fixture(scope="module")
def whole():
    """Rows, and what EM on one device in one chunk finds."""
    x = clustered()
    start = start_mixture(x[:3])
    return x, start, fit(placed(x), start, settings=SETTINGS)


def test_chunks_devices_and_order_change_nothing():
    x = clustered().astype(np.float64)
    shuffled = np.random.default_rng(1).permutation(x)
    with jax.enable_x64(True):
        start = start_mixture(x[:3])
        expected = fit(placed(x), start, settings=SETTINGS)
        for rows in (
            placed(shuffled, 3, chunk=32),
            placed(x, 8, chunk=16, capacity=900),
        ):
            found = fit(rows, start, settings=SETTINGS)
            np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-11)
            assert_same(found.mixture, expected.mixture, rtol=1e-8, atol=1e-10)


def test_score_grows_and_belongs_to_the_last_step(whole):
    x, _, found = whole
    assert (np.diff(found.scores) > -1e-4).all() and len(found.scores) > 2
    joint = log_joint(found.mixture, jnp.asarray(x))
    score = jax.nn.logsumexp(joint, axis=1).mean()
    np.testing.assert_allclose(found.scores[-1], score, rtol=1e-5)
    assert float(found.mixture.pi.sum()) == pytest.approx(1, abs=1e-5)


def test_rows_of_weight_zero_change_nothing(whole):
    x, start, _ = whole
    origin, ones = jnp.zeros(6), jnp.ones(400)
    sums = row_sums(jnp.asarray(x), ones, start, origin)
    more = jnp.concatenate([jnp.asarray(x), jnp.full((9, 6), 7.0)])
    padded = row_sums(more, jnp.concatenate([ones, jnp.zeros(9)]), start, origin)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5), sums, padded)


def test_same_as_scikit_learn(whole):
    mixture = pytest.importorskip("sklearn.mixture")
    x, start, _ = whole
    theirs = mixture.GaussianMixture(
        3,
        covariance_type="diag",
        tol=1e-9,
        max_iter=300,
        weights_init=np.full(3, 1 / 3),
        means_init=x[:3].astype(np.float64),
        precisions_init=np.ones((3, 6)),
    ).fit(x.astype(np.float64))
    exact = dataclasses.replace(SETTINGS, delta=0.0, max_iter=60)
    ours = fit(placed(x), start, settings=exact)
    assert ours.scores[-1] == pytest.approx(theirs.score(x), abs=1e-2)


def test_float32_finds_what_float64_finds_in_narrow_places():
    """Large means, tiny variances, and dimensions dead in one component only."""
    rng = np.random.default_rng(0)
    x = np.zeros((600, 4))
    x[:, 0] = 8 + rng.normal(0, 1e-3, 600)
    x[300:, 1] = 0.7 + rng.normal(0, 0.2, 300)
    x[:300, 2] = 3 + rng.normal(0, 1e-2, 300)
    x[300:, 2] = rng.normal(0, 1, 300)
    x = x.astype(np.float32)
    means = x[[400, 0]]
    found = fit(placed(x), start_mixture(means), settings=SETTINGS)
    with jax.enable_x64(True):
        start = start_mixture(means.astype(np.float64))
        expected = fit(placed(x.astype(np.float64)), start, settings=SETTINGS)
        exact = [np.asarray(v) for v in jax.tree.leaves(expected.mixture)]
    assert len(found.scores) == len(expected.scores)
    np.testing.assert_allclose(found.scores, expected.scores, atol=2e-3)
    for one, other in zip(jax.tree.leaves(found.mixture), exact, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-7)


def test_full_covariance_follows_correlation():
    rng = np.random.default_rng(0)
    x = rng.multivariate_normal([1, 2], [[1, 0.8], [0.8, 1]], 2000).astype(np.float32)
    start = start_mixture(x[:1], full=True)
    found = fit(placed(x), start, settings=SETTINGS).mixture
    np.testing.assert_allclose(found.var[0], np.cov(x.T, bias=True), atol=1e-3)


def test_component_without_rows_stays_finite():
    x = clustered() + 5
    means = np.stack([x[0], x[1], np.full(6, 1e4, np.float32)])
    found = fit(placed(x), start_mixture(means), settings=SETTINGS).mixture
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(found))
    assert float(found.pi[2]) < 1e-6


def test_nan_is_an_error_that_names_the_class():
    x = clustered()
    x[7, 2] = np.nan
    with pytest.raises(TrainingError, match=r"mixture of car .* nan after 0 steps"):
        fit(placed(x), start_mixture(x[:3]), settings=SETTINGS, name="car")


def test_classes_with_few_rows_are_not_valid():
    pools = [clustered(200), clustered(2), clustered(150, seed=1), clustered(0)]
    settings = dataclasses.replace(SETTINGS, chunk=64)
    choice = {"settings": settings, "devices": jax.devices()[:1]}
    mixtures, scores = fit_classes(pools, rng=np.random.default_rng(0), **choice)
    assert mixtures.valid.tolist() == [True, False, True, False]
    assert scores[0] and not scores[1] and not scores[3]
    found = np.asarray(jax.jit(log_density)(mixtures, jnp.asarray(pools[0])))
    assert found[:, 0].mean() == pytest.approx(scores[0][-1], rel=1e-5)
    assert (found[:, 0] > found[:, 2]).mean() > 0.9
    again, _ = fit_classes(pools, rng=np.random.default_rng(0), **choice)
    for one, other in zip(*map(jax.tree.leaves, (again, mixtures)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_stepwise_of_all_rows_is_a_batch_step(whole):
    x, start, _ = whole
    one = dataclasses.replace(SETTINGS, max_iter=0)
    expected = fit(placed(x), start, settings=one).mixture
    assert_same(fit_stepwise([x], start), expected, rtol=1e-3, atol=1e-5)
    origin = jnp.zeros(6)
    sums = row_sums(jnp.asarray(x), jnp.ones(400), start, origin)
    old = jax.tree.map(lambda leaf: leaf * 0 + 3, sums)
    renewed = m_step(blend(old, sums, rho=1.0), origin, eps=SETTINGS.eps)
    assert_same(renewed, m_step(sums, origin, eps=SETTINGS.eps), rtol=1e-6)


def test_stepwise_comes_close_to_batches():
    """Within 0.5 nats of EM over all rows, on rows it has not seen (section 9)."""
    rng = np.random.default_rng(0)
    middle, width = rng.normal(size=(4, 8)), rng.uniform(0.3, 1, (4, 8))
    parts = rng.integers(0, 4, 6000)
    x = (middle[parts] + width[parts] * rng.normal(size=(6000, 8))).astype(np.float32)
    train, held_out = x[:4864], jnp.asarray(x[4864:])
    start = start_mixture(train[:4])
    batches = (
        train[places]
        for _ in range(2)
        for places in np.split(rng.permutation(len(train)), 19)
    )

    def score(mixture):
        return float(jax.nn.logsumexp(log_joint(mixture, held_out), axis=1).mean())

    batch = score(fit(placed(train), start, settings=SETTINGS).mixture)
    assert score(fit_stepwise(batches, start)) > batch - 0.5
    assert batch > score(start) + 1
