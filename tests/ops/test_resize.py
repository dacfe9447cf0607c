import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from sfda_jax.ops import resize
from sfda_jax.ops.resize import resize_bilinear, resize_nearest


def test_examples():
    assert doctest.testmod(resize).failed == 0


@pytest.mark.parametrize("align_corners", [True, False])
def test_bilinear_keeps_constants_dtype_and_identity(align_corners):
    x = jnp.full((1, 3, 5, 2), 7.0, jnp.bfloat16)
    y = resize_bilinear(x, (8, 4), align_corners=align_corners)
    assert y.dtype == jnp.bfloat16 and y.shape == (1, 8, 4, 2)
    assert (y == 7).all()
    assert resize_bilinear(x, (3, 5), align_corners=align_corners) is x


def test_bilinear_by_hand():
    x = jnp.asarray([0.0, 4.0]).reshape(1, 1, 2, 1)
    corners = resize_bilinear(x, (1, 5), align_corners=True)
    centres = resize_bilinear(x, (1, 4), align_corners=False)
    np.testing.assert_array_equal(corners.ravel(), [0, 1, 2, 3, 4])
    np.testing.assert_array_equal(centres.ravel(), [0, 1, 3, 4])


def test_bilinear_down_to_one_pixel_takes_the_corner():
    x = jnp.arange(12.0).reshape(1, 3, 4, 1)
    assert resize_bilinear(x, (1, 1), align_corners=True).item() == 0


def test_bilinear_gradient_sums_to_the_number_of_outputs():
    x = jnp.zeros((1, 4, 6, 1))
    gradient = jax.grad(lambda x: resize_bilinear(x, (7, 9), align_corners=True).sum())(
        x
    )
    np.testing.assert_allclose(gradient.sum(), 63, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.int32, jnp.float32])
def test_nearest_is_floor_and_keeps_the_dtype(dtype):
    labels = jnp.arange(6, dtype=dtype).reshape(1, 2, 3)
    up = resize_nearest(labels, (4, 5))
    assert up.dtype == dtype
    np.testing.assert_array_equal(up[0, 0], [0, 0, 1, 1, 2])
    np.testing.assert_array_equal(up[0, :, 0], [0, 0, 3, 3])
    down = resize_nearest(labels[..., None], (1, 2))
    np.testing.assert_array_equal(down[0, 0, :, 0], [0, 1])


def test_nearest_by_pixel_centres_is_pillows():
    image = Image.fromarray(np.arange(70, dtype=np.uint8).reshape(7, 10))
    for height, width in ((5, 4), (16, 23), (7, 30)):
        expected = image.resize((width, height), Image.Resampling.NEAREST)
        found = resize_nearest(
            jnp.asarray(image)[None], (height, width), half_pixel=True
        )
        np.testing.assert_array_equal(found[0], expected)


def test_bilinear_in_float64_keeps_its_precision():
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 5, 1, 1)))
        y = resize_bilinear(x, (7, 1), align_corners=True)
        position = np.linspace(0, 4, 7)
        expected = np.interp(position, np.arange(5), np.asarray(x).ravel())
        assert y.dtype == np.float64
        np.testing.assert_allclose(y.ravel(), expected, rtol=0, atol=1e-14)
