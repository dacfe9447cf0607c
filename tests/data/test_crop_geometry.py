import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from sfda_jax.data import image_ops
from sfda_jax.data.crop_geometry import CropGeometry
from sfda_jax.data.interpolation import aligned, blended, torch_nearest
from sfda_jax.ops.resize import resize_bilinear, resize_nearest

SIZE = (30, 47)
SIZES = [(41, 83), (13, 20), (30, 47), (1, 1)]


def picture(height=SIZE[0], width=SIZE[1], seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def window(**changed):
    plain = {
        "rescale_size": (41, 83),
        "crop_size": (16, 24),
        "corner": (9, 31),
        "flip": False,
    }
    return CropGeometry(**{**plain, **changed})


@pytest.mark.parametrize("size", SIZES)
def test_aligned_corners_are_those_of_the_device(size):
    image = picture().astype(np.float32)
    axes = (aligned(*pair) for pair in zip(SIZE, size, strict=True))
    found = blended(image, *axes)
    expected = resize_bilinear(jnp.asarray(image)[None], size, align_corners=True)[0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", SIZES)
def test_nearest_is_that_of_the_device(size):
    labels = picture()[..., 0]
    rows, columns = (torch_nearest(*pair) for pair in zip(SIZE, size, strict=True))
    expected = resize_nearest(jnp.asarray(labels)[None], size)[0]
    np.testing.assert_array_equal(labels[rows[:, None], columns], expected)


def test_nearest_rounds_in_single_precision():
    assert torch_nearest(2, 82)[41] == 0  # 41 * (2 / 82) is 1 in double precision
    assert torch_nearest(2, 98)[49] == 1  # and less than 1 here
    assert np.floor(np.array([41 * (2 / 82), 49 * (2 / 98)])).tolist() == [1, 0]


@pytest.mark.parametrize("flip", [False, True])
def test_a_crop_is_a_part_of_the_whole(flip):
    image = picture(*window().rescale_size)
    part = image[9:25, 31:55]
    found = window(flip=flip).cut(image, "bilinear")
    np.testing.assert_array_equal(found, part[:, ::-1] if flip else part)
    assert found.flags.c_contiguous


@pytest.mark.parametrize("flip", [False, True])
def test_other_views_see_what_the_crop_of_a_whole_resize_sees(flip):
    image, geometry = picture(), window(flip=flip)
    size = geometry.rescale_size
    whole = resize_bilinear(
        jnp.asarray(image, jnp.float32)[None], size, align_corners=True
    )[0]
    expected = np.asarray(whole)[9:25, 31:55]
    expected = expected[:, ::-1] if flip else expected
    found = geometry.bilinear(image)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    whole = np.asarray(resize_nearest(jnp.asarray(image[..., 0])[None], size)[0])
    expected = whole[9:25, 31:55]
    expected = expected[:, ::-1] if flip else expected
    found = geometry.nearest(image[..., 0], SIZE)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("stored", [(15, 20), (60, 100)])
def test_stored_maps_are_resized_to_the_image_first(stored):
    small = picture(*stored)[..., 1]
    enlarged = image_ops.resize(small, SIZE, "nearest")
    geometry = window()
    np.testing.assert_array_equal(
        geometry.nearest(small, SIZE), geometry.nearest(enlarged, SIZE)
    )


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("rescale_size", [(16, 24), (12, 24), (40, 20)])
def test_an_image_no_larger_than_the_crop_is_resized_in_every_view(rescale_size, flip):
    geometry = window(rescale_size=rescale_size, corner=None, flip=flip)
    image = image_ops.resize(picture(), rescale_size, "bilinear")
    found = geometry.cut(image, "bilinear")
    expected = image_ops.resize(image, (16, 24), "bilinear")
    expected = expected[:, ::-1] if flip else expected
    np.testing.assert_array_equal(found, expected)
    view, labels = geometry.bilinear(picture()), geometry.nearest(image[..., 0], SIZE)
    assert view.shape == (16, 24, 3) and labels.shape == (16, 24)
    ramp = np.broadcast_to(np.arange(SIZE[1], dtype=np.float32)[:, None], (*SIZE, 3))
    seen = geometry.bilinear(ramp)[0, :, 0]
    ends = (46, 0) if flip else (0, 46)
    np.testing.assert_allclose(seen, np.linspace(*ends, 24), rtol=0, atol=2)


def test_geometry_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        window().flip = True
