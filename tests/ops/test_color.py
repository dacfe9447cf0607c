import jax.numpy as jnp
import numpy as np
import pytest

from sfda_jax.ops.color import MEAN, SCHEMES, STD, from_unit, normalize, to_unit


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


def test_schemes():
    pixels = np.asarray([[[[0, 128, 255]]]], np.uint8)
    np.testing.assert_allclose(normalize(pixels, "unit"), pixels / 255, rtol=1e-6)
    # BiSMAP's SYNTHIA loader: the mean goes off before the division, and once after.
    mean, std = np.asarray(MEAN), np.asarray(STD)
    expected = ((pixels - mean) / 255 - mean) / std
    found = normalize(pixels, "imagenet_mean_twice")
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_to_unit_undoes_from_unit(scheme):
    images = jnp.linspace(0, 1, 24).reshape(1, 2, 4, 3)
    again = to_unit(from_unit(images, scheme), scheme)
    np.testing.assert_allclose(again, images, atol=1e-6)
