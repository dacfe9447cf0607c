import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from sfda_jax.ops.pil_resize import resize_matrix, resize_pil

FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@pytest.mark.parametrize("resample", FILTERS)
@pytest.mark.parametrize("size", [(26, 70), (5, 11), (40, 9), (13, 30), (1, 1)])
def test_equals_pillow_on_float_maps(resample, size):
    x = np.random.default_rng(0).random((2, 13, 29, 3), np.float32)
    found = jax.jit(lambda x: resize_pil(x, size, resample))(x)
    assert found.shape == (2, *size, 3) and found.dtype == np.float32
    for b in range(2):
        for c in range(3):
            image = Image.fromarray(x[b, :, :, c])
            expected = image.resize(size[::-1], FILTERS[resample])
            np.testing.assert_allclose(found[b, :, :, c], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("resample", FILTERS)
@pytest.mark.parametrize("lengths", [(1, 7), (7, 1), (9, 9), (64, 21), (3, 100)])
def test_every_row_sums_to_one(resample, lengths):
    matrix = resize_matrix(*lengths, resample)
    assert matrix.shape == lengths[::-1]
    np.testing.assert_allclose(matrix.sum(1), np.ones(lengths[1]), rtol=1e-12)


def test_an_equal_length_is_left_alone():
    np.testing.assert_array_equal(resize_matrix(5, 5, "lanczos"), np.eye(5))


def test_cubic_overshoots():
    x = np.zeros((1, 1, 8, 1), np.float32)
    x[:, :, 4:] = 1
    found = resize_pil(jnp.asarray(x), (1, 64), "bicubic")
    assert found.min() < 0 and found.max() > 1
