import jax.numpy as jnp
import numpy as np

from sfda_jax.ops.resize import resize_bilinear
from sfda_jax.ops.warp import full_to_weak


def _geometry(size, origin, flip):
    return {
        "rescale_size": jnp.asarray([size], jnp.int32),
        "crop_origin": jnp.asarray([origin], jnp.int32),
        "flip": jnp.asarray([flip]),
    }


def test_equals_resize_crop_flip():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 7, 9, 2)), jnp.float32)
    whole = resize_bilinear(x, (13, 20), align_corners=True)
    for flip in (False, True):
        y = full_to_weak(x, **_geometry((13, 20), (3, 5), flip), crop_size=(6, 8))
        expected = whole[:, 3:9, 5:13]
        expected = expected[:, :, ::-1] if flip else expected
        np.testing.assert_allclose(y, expected, atol=1e-6)


def test_nearest_keeps_labels():
    x = jnp.arange(12, dtype=jnp.int32).reshape(1, 3, 4, 1)
    y = full_to_weak(
        x, **_geometry((6, 8), (2, 2), False), crop_size=(4, 4), nearest=True
    )
    expected = np.asarray(x)[0, :, :, 0].repeat(2, 0).repeat(2, 1)[2:6, 2:6]
    np.testing.assert_array_equal(y[0, :, :, 0], expected)
    assert y.dtype == jnp.int32


def test_down_ratio_divides_geometry():
    x = jnp.ones((1, 4, 8, 1))
    y = full_to_weak(
        x, **_geometry((33, 65), (9, 17), True), crop_size=(16, 24), down_ratio=8
    )
    assert y.shape == (1, 2, 3, 1)
    np.testing.assert_allclose(y, 1, atol=1e-6)


def test_single_row():
    x = jnp.arange(4.0).reshape(1, 1, 4, 1)
    y = full_to_weak(x, **_geometry((1, 4), (0, 0), False), crop_size=(1, 4))
    np.testing.assert_array_equal(y, x)
