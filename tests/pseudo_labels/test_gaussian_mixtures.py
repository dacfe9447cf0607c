"""Log-densities of mixtures: against their definition, and where float32 is short."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, norm

from sfda_jax.pseudo_labels.gaussian_mixtures import (
    INVALID,
    Mixture,
    Mixtures,
    log_density,
    log_joint,
    stack_mixtures,
)

densities = jax.jit(log_density)
joints = jax.jit(log_joint)


def drawn(rng, k, d, full=False):
    mu = rng.normal(size=(k, d)).astype(np.float32)
    var = rng.uniform(0.2, 2, (k, d)).astype(np.float32)
    if full:
        half = rng.normal(size=(k, d, d)).astype(np.float32)
        var = half @ half.swapaxes(1, 2) + np.eye(d, dtype=np.float32)
    pi = rng.dirichlet(np.ones(k)).astype(np.float32)
    return Mixture(pi=jnp.asarray(pi), mu=jnp.asarray(mu), var=jnp.asarray(var))


def defined(mixture, x):
    """ln N + ln pi in float64, term by term."""
    pi, mu, var = (
        np.asarray(value, np.float64) for value in (mixture.pi, mixture.mu, mixture.var)
    )
    x = np.asarray(x, np.float64)
    if var.ndim == 3:
        normals = [multivariate_normal(m, v) for m, v in zip(mu, var, strict=True)]
        joint = np.stack([normal.logpdf(x) for normal in normals], 1)
    else:
        joint = norm.logpdf(x[:, None], mu, np.sqrt(var)).sum(2)
    return joint + np.log(pi)


@pytest.mark.parametrize("full", [False, True])
def test_log_joint_is_its_definition(full):
    rng = np.random.default_rng(0)
    mixture = drawn(rng, 3, 5, full)
    x = rng.normal(size=(20, 5)).astype(np.float32)
    found = joints(mixture, jnp.asarray(x))
    np.testing.assert_allclose(found, defined(mixture, x), rtol=1e-5, atol=1e-4)


def test_narrow_components_keep_their_digits():
    """A narrow component far from zero, and one that is dead where others live."""
    rng = np.random.default_rng(1)
    mu = np.array([[8.0, 0.0], [8.3, 0.7]], np.float32)
    var = np.array([[1e-6, 1e-6], [0.5, 0.1]], np.float32)
    mixture = Mixture(
        pi=jnp.array([0.4, 0.6]), mu=jnp.asarray(mu), var=jnp.asarray(var)
    )
    near = (mu[0] + rng.normal(0, 1e-3, (30, 2))).astype(np.float32)
    near[:, 1] = 0
    found = joints(mixture, jnp.asarray(near))
    np.testing.assert_allclose(found, defined(mixture, near), rtol=1e-4, atol=1e-3)
    # reckoned from zero, the first component's terms of 6e7 nats leave no digit
    lost = joints(mixture, jnp.asarray(near), jnp.zeros(2))
    assert np.abs(np.asarray(lost) - defined(mixture, near)).max() > 0.5


def test_classes_without_a_mixture_lose_and_disturb_nothing():
    rng = np.random.default_rng(2)
    first, second = drawn(rng, 2, 4), drawn(rng, 2, 4)
    x = jnp.asarray(rng.normal(size=(10, 4)).astype(np.float32))
    mixtures = stack_mixtures([first, None, second], 2, 4)
    assert mixtures.valid.tolist() == [True, False, True]
    broken = mixtures.replace(
        mu=mixtures.mu.at[1].set(jnp.nan), var=mixtures.var.at[1].set(0.0)
    )
    for some in (mixtures, broken):
        found = np.asarray(densities(some, x))
        for index, one in ((0, first), (2, second)):
            expected = logsumexp(defined(one, x), axis=1)
            np.testing.assert_allclose(found[:, index], expected, rtol=1e-5, atol=1e-4)
        assert (found[:, 1] == np.float32(INVALID)).all()


def test_no_class_has_a_mixture():
    mixtures = stack_mixtures([None] * 3, 2, 4)
    assert (densities(mixtures, jnp.ones((10, 4))) == np.float32(INVALID)).all()


def test_far_rows_are_finite():
    mixtures = Mixtures(
        mu=jnp.zeros((1, 1, 3)),
        var=jnp.full((1, 1, 3), 1e-6),
        pi=jnp.ones((1, 1)),
        valid=jnp.ones(1, bool),
    )
    found = densities(mixtures, jnp.full((2, 3), 50.0))
    assert np.isfinite(np.asarray(found)).all()
