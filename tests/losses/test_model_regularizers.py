import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sfda_jax.losses.cross_entropy import mean_cross_entropy
from sfda_jax.losses.model_regularizers import (
    confidence_regularised_loss,
    pixel_regularizer,
)
from sfda_jax.types import IGNORE

RNG = np.random.default_rng(0)
LOGITS = jnp.asarray(RNG.normal(size=(3, 2, 4, 5)), jnp.float32)
LABELS = jnp.asarray(RNG.integers(0, 5, (3, 2, 4))).at[0, 0].set(IGNORE)
LABELS = LABELS.at[2].set(IGNORE)


def test_uniform_predictions_cost_least():
    uniform = jnp.log(jnp.full(5, 0.2))
    sure = jax.nn.log_softmax(jnp.asarray([9.0, 0.0, 0.0, 0.0, 0.0]))
    for name, least in (("kld", np.log(5)), ("l2", 0.2), ("ent", -np.log(5))):
        np.testing.assert_allclose(pixel_regularizer(uniform, name), least, rtol=1e-6)
        assert pixel_regularizer(sure, name) > least
    # p log p is 0 at p = 0, and so is its gradient.
    lost = jnp.asarray([0.0, -200.0])
    assert pixel_regularizer(lost, "ent") == 0
    assert np.isfinite(jax.grad(lambda x: pixel_regularizer(x, "ent"))(lost)).all()


@pytest.mark.parametrize("name", ["kld", "l2", "ent"])
def test_by_hand(name):
    image_weights = jnp.asarray([0.5, 0.0, 2.0])
    loss, parts = confidence_regularised_loss(
        LOGITS, LABELS, regularizer=name, weight=0.3, image_weights=image_weights
    )
    plain = mean_cross_entropy(LOGITS, LABELS, denominator="kept")
    np.testing.assert_allclose(parts["cross_entropy"], plain, rtol=1e-6)
    penalty = pixel_regularizer(jax.nn.log_softmax(LOGITS), name)
    # Image 1 has weight 0, image 2 no label: what is left is 0's second row.
    expected = 0.3 * 0.5 * np.asarray(penalty)[0, 1].mean()
    np.testing.assert_allclose(parts["regularizer"], expected, rtol=1e-5)
    np.testing.assert_allclose(loss, plain + expected, rtol=1e-6)


def test_one_hot_weights_are_hard_labels():
    soft = jax.nn.one_hot(jnp.where(LABELS == IGNORE, -1, LABELS), 5)
    hard, _ = confidence_regularised_loss(LOGITS, LABELS)
    given, _ = confidence_regularised_loss(LOGITS, soft)
    np.testing.assert_allclose(given, hard, rtol=1e-6)


@pytest.mark.parametrize("compile_", [jax.jit, lambda fn: fn], ids=["jit", "eager"])
@pytest.mark.parametrize("soft", [False, True])
def test_nothing_labelled(compile_, soft):
    labels = jnp.full_like(LABELS, IGNORE)
    if soft:
        labels = jnp.zeros_like(LOGITS)

    def value_and_grad(strict):
        def loss(x):
            return confidence_regularised_loss(
                x, labels, regularizer="kld", weight=0.1, strict_nan=strict
            )[0]

        return compile_(jax.value_and_grad(loss))(LOGITS)

    value, grad = value_and_grad(False)
    assert value == 0
    np.testing.assert_array_equal(grad, 0)
    value, grad = value_and_grad(True)
    assert np.isnan(value)
    assert np.isnan(grad).all()


def test_shares_add_up_over_unequal_shards():
    weights = jnp.asarray([0.4, 0.1, 0.1])

    def loss(logits, labels, weights, axis_name=None):
        return confidence_regularised_loss(
            logits,
            labels,
            regularizer="kld",
            weight=0.2,
            image_weights=weights,
            axis_name=axis_name,
        )

    whole, parts = loss(LOGITS, LABELS, weights)
    shares, shard_parts = jax.vmap(lambda *x: loss(*x, axis_name="d"), axis_name="d")(
        LOGITS[:, None], LABELS[:, None], weights[:, None]
    )
    np.testing.assert_allclose(shares.sum(), whole, rtol=1e-6)
    for name, value in parts.items():
        np.testing.assert_allclose(shard_parts[name].sum(), value, rtol=1e-6)
