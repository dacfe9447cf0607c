import jax.numpy as jnp
import numpy as np

from sfda_jax.ops.color import MEAN, STD, normalize


def test_uint8_is_scaled_and_standardised():
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 3), np.uint8)
    expected = (images / 255 - np.asarray(MEAN)) / np.asarray(STD)
    normalized = normalize(images)
    assert normalized.dtype == jnp.float32
    np.testing.assert_allclose(normalized, expected, atol=1e-6)
    np.testing.assert_array_equal(normalize(images[0]), normalized[0])


def test_floats_pass_unchanged():
    images = jnp.full((1, 2, 2, 3), 200.0)
    assert normalize(images) is images
