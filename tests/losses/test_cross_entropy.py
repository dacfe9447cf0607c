import jax
import jax.numpy as jnp
import numpy as np

from sfda_jax.losses.cross_entropy import (
    mean_cross_entropy,
    mean_reverse_cross_entropy,
    pixel_cross_entropy,
    symmetric_cross_entropy,
)
from sfda_jax.types import IGNORE

LOGITS = jnp.asarray([[[[0.0, 0.0], [2.0, 0.0]], [[0.0, 1.0], [3.0, 1.0]]]])
LABELS = jnp.asarray([[[0, 0], [IGNORE, 1]]])
EXPECTED = [np.log(2), np.log1p(np.exp(-2)), 0, np.log1p(np.exp(2))]


def test_pixels():
    losses = pixel_cross_entropy(LOGITS, LABELS)
    np.testing.assert_allclose(losses.ravel(), EXPECTED, rtol=1e-6)


def test_denominators_and_weights():
    total = sum(EXPECTED)
    for denominator, count in (("all", 4), ("kept", 3)):
        loss = mean_cross_entropy(LOGITS, LABELS, denominator=denominator)
        np.testing.assert_allclose(loss, total / count, rtol=1e-6)
    halved = mean_cross_entropy(
        LOGITS, LABELS, denominator="all", weights=jnp.full((1, 2, 2), 0.5)
    )
    np.testing.assert_allclose(halved, total / 8, rtol=1e-6)


def test_all_ignored_has_no_gradient():
    ignored = jnp.full_like(LABELS, IGNORE)
    for denominator in ("all", "kept"):
        value, grad = jax.value_and_grad(
            lambda x, d=denominator: mean_cross_entropy(x, ignored, denominator=d)
        )(LOGITS)
        assert value == 0
        np.testing.assert_array_equal(grad, 0)


def test_shares_add_up_over_unequal_shards():
    logits = jnp.concatenate([LOGITS, 2 * LOGITS])
    labels = jnp.concatenate([LABELS, jnp.asarray([[[1, IGNORE], [IGNORE, IGNORE]]])])
    whole = mean_cross_entropy(logits, labels, denominator="kept")
    shares = jax.vmap(
        lambda x, y: mean_cross_entropy(x, y, denominator="kept", axis_name="d"),
        axis_name="d",
    )(logits[:, None], labels[:, None])
    np.testing.assert_allclose(shares.sum(), whole, rtol=1e-6)


def test_reverse_cross_entropy_is_what_others_are_given():
    others = 1 - np.exp(-np.array(EXPECTED))  # 0 where there is no label
    loss = mean_reverse_cross_entropy(LOGITS, LABELS)
    np.testing.assert_allclose(loss, -np.log(1e-4) * others.sum() / 3, rtol=1e-6)


def test_reverse_cross_entropy_clips_small_probabilities():
    """Below 1e-7 a class counts as that much, and nothing pulls on it."""
    logits = jnp.asarray([[[[0.0, -20.0, -1.0]]]])
    labels = jnp.zeros((1, 1, 1), jnp.int32)
    value, gradient = jax.value_and_grad(mean_reverse_cross_entropy)(logits, labels)
    p = np.asarray(jax.nn.softmax(logits)).ravel()
    np.testing.assert_allclose(value, -np.log(1e-4) * (1e-7 + p[2]), rtol=1e-6)
    expected = -np.log(1e-4) * p[2] * (np.array([0, 0, 1]) - p)
    np.testing.assert_allclose(gradient.ravel(), expected, rtol=1e-5, atol=1e-12)


def test_symmetric_cross_entropy():
    a = mean_cross_entropy(LOGITS, LABELS, denominator="kept")
    b = mean_reverse_cross_entropy(LOGITS, LABELS)
    for weights in ((0.1, 1.0), (2.0, 0.5)):
        found = symmetric_cross_entropy(LOGITS, LABELS, weights=weights)
        np.testing.assert_allclose(found, weights[0] * a + weights[1] * b, rtol=1e-6)
    assert symmetric_cross_entropy(LOGITS, LABELS) == 0.1 * a + b
    ignored = jnp.full_like(LABELS, IGNORE)
    value, gradient = jax.value_and_grad(symmetric_cross_entropy)(LOGITS, ignored)
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


def test_symmetric_shares_add_up_over_unequal_shards():
    logits = jnp.concatenate([LOGITS, 2 * LOGITS])
    labels = jnp.concatenate([LABELS, jnp.asarray([[[1, IGNORE], [IGNORE, IGNORE]]])])
    whole = symmetric_cross_entropy(logits, labels)
    shares = jax.vmap(
        lambda x, y: symmetric_cross_entropy(x, y, axis_name="d"), axis_name="d"
    )(logits[:, None], labels[:, None])
    np.testing.assert_allclose(shares.sum(), whole, rtol=1e-6)
