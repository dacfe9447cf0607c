import doctest

import jax
import jax.numpy as jnp
import numpy as np

from sfda_jax.losses import adversarial


def test_examples():
    assert doctest.testmod(adversarial).failed == 0


def test_means_run_over_all_patches():
    scores = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4, 1)), "float32")
    found = adversarial.discriminator_loss(scores, scores[:, :2])
    expected = (np.square(scores).mean() + np.square(scores[:, :2] - 1).mean()) / 2
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_shares_of_devices_sum_to_the_mean():
    scores = jnp.asarray(np.random.default_rng(1).normal(size=(4, 3, 2, 1)), "float32")
    shares = jax.vmap(
        lambda x: adversarial.adversarial_loss(x, axis_name="data"), axis_name="data"
    )(scores.reshape(2, 2, 3, 2, 1))
    np.testing.assert_allclose(
        shares.sum(), adversarial.adversarial_loss(scores), rtol=1e-6
    )
