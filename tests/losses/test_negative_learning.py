import jax
import jax.numpy as jnp
import numpy as np

from sfda_jax.losses.negative_learning import negative_classes, negative_learning


def test_classes_up_to_chance():
    probs = jnp.asarray([[[[0.25, 0.25, 0.5, 0.0]]]])
    np.testing.assert_array_equal(
        negative_classes(probs)[0, 0, 0], [True, True, False, True]
    )


def test_mean_over_selected_entries():
    logits = jnp.asarray([[[[0.0, 5.0], [1.0, -1.0]]]])
    selected = jnp.asarray([[[[True, False], [True, True]]]])
    expected = np.mean(np.log1p(np.exp([0.0, 1.0, -1.0])))
    np.testing.assert_allclose(negative_learning(logits, selected), expected, rtol=1e-6)
    assert negative_learning(logits, jnp.zeros_like(selected)) == 0


def test_shares_add_up():
    logits = jnp.asarray(
        np.random.default_rng(0).normal(size=(2, 3, 3, 4)), jnp.float32
    )
    selected = logits > 0.3
    whole = negative_learning(logits, selected)
    shares = jax.vmap(
        lambda x, s: negative_learning(x, s, axis_name="d"), axis_name="d"
    )(logits[:, None], selected[:, None])
    np.testing.assert_allclose(shares.sum(), whole, rtol=1e-6)
