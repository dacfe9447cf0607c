import jax
import jax.numpy as jnp
import numpy as np

from sfda_jax.pseudo_labels.running_confidence import (
    confident_labels,
    init_running_confidence,
    update_running_confidence,
)
from sfda_jax.types import IGNORE


def test_first_sight_starts_at_the_batch_mean():
    state = init_running_confidence(3)
    probs = jnp.broadcast_to(jnp.asarray([0.7, 0.3, 0.0]), (1, 2, 2, 3))
    state = update_running_confidence(state, probs)
    np.testing.assert_allclose(state, [0.7, 0.3, 0.0009], rtol=1e-6)
    state = update_running_confidence(state, probs[..., ::-1])
    np.testing.assert_allclose(state, [0.63, 0.3, 0.9 * 0.0009 + 0.07], rtol=1e-5)


def test_mean_is_global():
    probs = jax.nn.softmax(
        jnp.asarray(np.random.default_rng(0).normal(size=(4, 3, 3, 5)), jnp.float32)
    )
    state = init_running_confidence(5)
    whole = update_running_confidence(state, probs)
    shards = jax.vmap(
        lambda p: update_running_confidence(state, p, axis_name="d"), axis_name="d"
    )(probs.reshape(2, 2, 3, 3, 5))
    np.testing.assert_allclose(shards[1], whole, rtol=1e-6)


def test_thresholds_are_per_image_and_strict():
    sure = [1.0, 0.0]
    probs = jnp.asarray([[[sure, [0.75, 0.25]]], [[sure, [0.25, 0.75]]]])
    labels = confident_labels(probs, jnp.ones(2), upper=0.75, lower=0.2, discount=False)
    assert labels.tolist() == [[[0, IGNORE]], [[0, 1]]]


def test_floor():
    probs = jnp.full((1, 1, 1, 5), 0.2)
    labels = confident_labels(probs, jnp.zeros(5))
    assert labels.tolist() == [[[IGNORE]]]
