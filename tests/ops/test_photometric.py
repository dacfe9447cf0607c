import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sfda_jax.ops import photometric
from sfda_jax.ops.color import normalize
from sfda_jax.ops.photometric import PhotometricSettings

SETTINGS = PhotometricSettings(gray_probability=0.3)
KEY = jax.random.key(3)

draw_images, draw_call = (
    jax.jit(draw, static_argnums=2)
    for draw in (photometric.draw_images, photometric.draw_call)
)
change = jax.jit(photometric.photometric)


def _images(count=4, size=(16, 24), seed=0):
    rng = np.random.default_rng(seed)
    return normalize(rng.integers(0, 256, (count, *size, 3), dtype=np.uint8))


def _assert_equal(first, second):
    jax.tree.map(np.testing.assert_array_equal, first, second)


@pytest.mark.parametrize("draw", [draw_images, draw_call])
def test_decisions_do_not_depend_on_the_split(draw):
    whole = draw(KEY, jnp.arange(8), SETTINGS)
    part = draw(KEY, jnp.arange(5, 8), SETTINGS)
    _assert_equal(jax.tree.map(lambda x: x[5:], whole), part)
    other = draw(jax.random.key(4), jnp.arange(8), SETTINGS)
    assert (whole.factors != other.factors).all()


def test_images_have_their_own_decisions():
    drawn = draw_images(KEY, jnp.arange(400), SETTINGS)
    np.testing.assert_allclose(drawn.jittered.mean(), 0.8, atol=0.06)
    np.testing.assert_allclose(drawn.blurred.mean(), 0.5, atol=0.08)
    np.testing.assert_allclose(drawn.gray.mean(), 0.3, atol=0.08)
    assert len(np.unique(np.asarray(drawn.order), axis=0)) == 24
    assert (np.sort(drawn.order, axis=1) == np.arange(4)).all()
    offset = np.array([1, 1, 1, 0])
    assert (np.abs(np.asarray(drawn.factors) - offset) <= 0.2).all()
    assert (np.ptp(drawn.factors, axis=0) > 0.38).all()
    assert (drawn.sigma >= 0.15).all()
    assert (drawn.sigma <= 1.15).all()


def test_a_call_shares_all_but_the_factors():
    drawn = draw_call(KEY, jnp.arange(6), SETTINGS)
    for name in ("jittered", "order", "gray", "blurred", "sigma"):
        rows = np.asarray(getattr(drawn, name))
        assert (rows == rows[:1]).all(), name
    assert len(np.unique(np.asarray(drawn.factors), axis=0)) == 6
    assert not drawn.gray.any()
    gates = (jnp.array(False), jnp.array(True))
    drawn = draw_call(KEY, jnp.arange(6), SETTINGS, gates=gates)
    assert not drawn.jittered.any()
    assert drawn.blurred.all()


def test_gates_of_many_iterations():
    keys = jax.random.split(KEY, 500)
    gates = jax.vmap(lambda key: photometric.draw_gates(key, SETTINGS))(keys)
    jittered, blurred = (np.asarray(gate) for gate in gates)
    np.testing.assert_allclose(jittered.mean(), 0.8, atol=0.06)
    np.testing.assert_allclose(blurred.mean(), 0.5, atol=0.08)
    assert 0.3 < (jittered & blurred).mean() < 0.5


def test_closed_gates_change_no_bit():
    images = _images()
    drawn = draw_images(KEY, jnp.arange(4), SETTINGS)
    shut = jnp.zeros(4, bool)
    closed = dataclasses.replace(drawn, jittered=shut, gray=shut, blurred=shut)
    _assert_equal(change(images, closed), images)
    one = dataclasses.replace(closed, blurred=jnp.array([False, True, False, False]))
    changed = change(images, one) != images
    np.testing.assert_array_equal(changed.any((1, 2, 3)), one.blurred)


def test_images_are_changed_one_by_one():
    images = _images()
    drawn = draw_images(KEY, jnp.arange(4), SETTINGS)
    whole = change(images, drawn)
    for i in (0, 3):
        alone = jax.tree.map(lambda x, i=i: x[i : i + 1], (images, drawn))
        np.testing.assert_allclose(change(*alone), whole[i : i + 1], atol=1e-6)


def test_grey_images_are_grey_and_keep_their_luma():
    unit = jnp.asarray(np.random.default_rng(0).random((2, 5, 7, 3)), jnp.float32)
    grey = np.asarray(photometric.grayscale(unit))
    assert (np.ptp(grey, axis=-1) == 0).all()
    luma = np.asarray(unit) @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(grey[..., 0], luma, atol=1e-6)


def test_neutral_factors_keep_the_image():
    unit = jnp.asarray(np.random.default_rng(0).random((2, 5, 7, 3)), jnp.float32)
    neutral = jnp.tile(jnp.array([[1.0, 1.0, 1.0, 0.0]]), (2, 1))
    order = jnp.array([[0, 1, 2, 3], [3, 1, 0, 2]])
    np.testing.assert_allclose(
        photometric.jitter(unit, neutral, order), unit, atol=1e-5
    )


@pytest.mark.parametrize("size", [(64, 41), (30, 10), (7, 1)])
def test_blur_is_the_reflected_convolution(size):
    images = np.random.default_rng(0).random((2, *size, 1)).astype(np.float32)
    sigma = np.array([0.4, 1.1], np.float32)
    blurred = photometric.gaussian_blur(jnp.asarray(images), jnp.asarray(sigma))
    expected = images.astype(np.float64)
    for axis, n in enumerate(size, 1):
        radius = photometric.kernel_size(n) // 2
        pad = [(0, 0)] * 4
        pad[axis] = (radius, radius)
        padded = np.pad(expected, pad, mode="reflect")
        taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma[:, None]) ** 2)
        taps /= taps.sum(1, keepdims=True)
        expected = sum(
            taps[:, k, None, None, None] * np.take(padded, range(k, k + n), axis)
            for k in range(2 * radius + 1)
        )
    np.testing.assert_allclose(blurred, expected, atol=1e-6)
    flat = jnp.full((2, *size, 1), 0.25)
    np.testing.assert_allclose(
        photometric.gaussian_blur(flat, jnp.asarray(sigma)), flat, atol=1e-6
    )
