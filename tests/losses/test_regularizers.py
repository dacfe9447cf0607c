import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sfda_jax.losses.regularizers import (
    nan_where,
    region_entropy,
    region_kld,
    region_sizes,
)
from sfda_jax.types import IGNORE

# Two pixels: probabilities (1/2, 1/2) and (2/3, 1/3).
LOGITS = jnp.asarray([[[[0.0, 0.0], [np.log(2.0), 0.0]]]], jnp.float32)
ENTROPY = [np.log(2), np.log(3) - 2 / 3 * np.log(2)]
KLD = [np.log(2), (np.log(3 / 2) + np.log(3)) / 2]
REGULARIZERS = (region_entropy, region_kld)


def labels(*values):
    return jnp.asarray([[values]], jnp.int32)


def test_each_counts_its_own_region():
    mixed = labels(1, IGNORE)
    assert region_sizes(mixed) == (1, 1)
    np.testing.assert_allclose(region_entropy(LOGITS, mixed), ENTROPY[1] / 2, rtol=1e-6)
    np.testing.assert_allclose(region_kld(LOGITS, mixed), KLD[0] / 2, rtol=1e-6)


@pytest.mark.parametrize("norm, divisor", [("pixels", 2), ("pixels_times_classes", 4)])
def test_norms(norm, divisor):
    for function, value, values in (
        (region_entropy, IGNORE, ENTROPY),
        (region_kld, 0, KLD),
    ):
        found = function(LOGITS, labels(value, value), region_norm=norm)
        np.testing.assert_allclose(found, sum(values) / divisor, rtol=1e-6)


@pytest.mark.parametrize("function, value", [(region_entropy, 0), (region_kld, IGNORE)])
def test_an_empty_region_is_nothing(function, value):
    empty = labels(value, value)
    extreme = jnp.asarray([[[[200.0, -200.0], [0.0, 0.0]]]])
    for logits in (LOGITS, extreme):
        loss, gradient = jax.value_and_grad(function)(logits, empty)
        assert loss == 0
        np.testing.assert_array_equal(gradient, 0)


def test_nan_where():
    def loss(logits, empty):
        return nan_where(empty, region_kld(logits, labels(0, 0)), logits)

    whole = jax.value_and_grad(region_kld)(LOGITS, labels(0, 0))
    same = jax.value_and_grad(loss)(LOGITS, jnp.asarray(False))
    np.testing.assert_array_equal(same[0], whole[0])
    np.testing.assert_array_equal(same[1], whole[1])
    value, gradient = jax.value_and_grad(loss)(LOGITS, jnp.asarray(True))
    assert np.isnan(value)
    assert np.isnan(gradient).all()


@pytest.mark.parametrize("function", REGULARIZERS)
def test_extreme_logits_stay_finite(function):
    logits = jnp.asarray([[[[1e4, -1e4, 0.0], [-90.0, 95.0, 3.0]]]])
    for value in (0, IGNORE):
        loss, gradient = jax.value_and_grad(function)(logits, labels(value, value))
        assert np.isfinite(loss)
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("function", REGULARIZERS)
def test_gradients_point_away_from_doubt(function):
    """Less entropy means a surer pixel; less divergence a less sure one."""
    value = IGNORE if function is region_entropy else 0
    gradient = jax.grad(function)(LOGITS, labels(value, value))[0, 0]
    np.testing.assert_allclose(gradient[0], 0, atol=1e-8)  # uniform: stationary
    likelier = float(gradient[1, 0])
    assert likelier < 0 if function is region_entropy else likelier > 0


@pytest.mark.parametrize("function", REGULARIZERS)
def test_low_precision_is_lifted(function):
    loss = function(LOGITS.astype(jnp.bfloat16), labels(0, IGNORE))
    assert loss.dtype == jnp.float32


@pytest.mark.parametrize("function", REGULARIZERS)
def test_shares_add_up_over_unequal_shards(function):
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(4, 3, 5, 4)), jnp.float32)
    kept = rng.random((4, 3, 5)) < np.asarray([0, 0.2, 0.7, 1])[:, None, None]
    targets = jnp.asarray(np.where(kept, rng.integers(0, 4, kept.shape), IGNORE))
    targets = targets.astype(jnp.int32)
    whole, gradient = jax.value_and_grad(function)(logits, targets)

    def share(x, y):
        return jax.value_and_grad(lambda x: function(x, y, axis_name="d"))(x)

    share = jax.jit(jax.vmap(share, axis_name="d"))
    shares, gradients = share(logits[:, None], targets[:, None])
    np.testing.assert_allclose(shares.sum(), whole, rtol=1e-6)
    np.testing.assert_allclose(gradients[:, 0], gradient, rtol=1e-5, atol=1e-9)
