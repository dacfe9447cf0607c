import numpy as np
import pytest

from sfda_jax.data import image_ops


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_factor_one_changes_nothing(image, name):
    np.testing.assert_array_equal(getattr(image_ops, name)(image, 1.0), image)


def test_brightness_truncates_and_clips():
    image = np.full((1, 1, 3), 201, np.uint8)
    assert image_ops.brightness(image, 0.5)[0, 0, 0] == 100
    assert image_ops.brightness(image, 1.5)[0, 0, 0] == 255


def test_contrast_zero_is_the_mean_grey(image):
    flat = image_ops.contrast(image, 0.0)
    assert (flat == int(image_ops.luma(image).mean() + 0.5)).all()


def test_saturation_zero_is_grey(image):
    np.testing.assert_array_equal(
        image_ops.saturation(image, 0.0), image_ops.grayscale(image)
    )


def test_luma_weights():
    red = np.zeros((1, 1, 3), np.uint8)
    red[..., 0] = 255
    assert image_ops.luma(red)[0, 0] == (19595 * 255 + 32768) >> 16


def test_hue_turns_red_towards_green():
    red = np.zeros((1, 1, 3), np.uint8)
    red[..., 0] = 255
    turned = image_ops.hue(red, 1 / 3)[0, 0]
    assert turned[1] > 250
    assert turned[0] < 5


def test_blur_keeps_a_flat_image():
    image = np.full((9, 9, 3), 77, np.uint8)
    np.testing.assert_array_equal(image_ops.blur5(image, 1.3), image)


def test_floats_are_normalised_as_bytes_are(image):
    found = image_ops.normalise_float(image.astype(np.float32))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, image_ops.normalise(image), rtol=0, atol=1e-6)


def test_resize_is_height_width(image):
    assert image_ops.resize(image, (8, 12), "bicubic").shape == (8, 12, 3)
    label = image[..., 0]
    assert image_ops.resize(label, (8, 12), "nearest").shape == (8, 12)
    assert image_ops.resize(image, (20, 30), "bilinear") is image


def test_pad_grows_both_sides_by_the_whole_deficit(image):
    padded = image_ops.pad(image[..., 0], (24, 30), 255)
    assert padded.shape == (28, 30)
    assert (padded[:4] == 255).all()
    assert (padded[-4:] == 255).all()
    assert image_ops.pad(image, (10, 10), 0) is image


@pytest.mark.parametrize("precision", ["single", "double"])
def test_round_gives_every_byte_back_and_truncate_loses_one(precision):
    image = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    normalised = image_ops.normalise(image, precision)
    np.testing.assert_array_equal(image_ops.denormalise(normalised, "round"), image)
    lost = image.astype(int) - image_ops.denormalise(normalised, "truncate")
    assert set(np.unique(lost)) == {0, 1}


def test_hole_becomes_the_mean_colour():
    assert image_ops.denormalised_zero("truncate").tolist() == [123, 116, 103]
    assert image_ops.denormalised_zero("round").tolist() == [124, 116, 104]


@pytest.mark.parametrize(
    ("size", "new_size"),
    [((20, 30), (31, 44)), ((60, 13), (21, 9)), ((17, 40), (17, 23)), ((9, 9), (9, 9))],
)
def test_a_part_resized_is_the_crop_of_the_whole(size, new_size):
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    whole = image_ops.resize(image, new_size, "bicubic")
    for _ in range(20):
        top, left = (int(rng.integers(n)) for n in new_size)
        bottom = int(rng.integers(top, new_size[0])) + 1
        right = int(rng.integers(left, new_size[1])) + 1
        box = (top, bottom, left, right)
        at = image_ops.reach(size, new_size, box)
        part = image_ops.crop(image, at)
        resized = image_ops.resize_part(part, at, size, new_size=new_size, box=box)
        np.testing.assert_array_equal(resized, image_ops.crop(whole, box))
