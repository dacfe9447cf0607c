import dataclasses

import numpy as np
import pytest

from sfda_jax.data import image_ops
from sfda_jax.data.strong_augment import (
    AugmentDecisions,
    AugmentSettings,
    augment_bytes,
    cutout_keep,
    draw_decisions,
    strong_augment,
    strong_augment_normalised,
)
from sfda_jax.errors import ConfigError

SIZE, CROP = (48, 96), (32, 64)
SETTINGS = AugmentSettings(cutout_cell=8)
NOTHING = AugmentDecisions(
    blur_sigma=None,
    gray=False,
    jitter_order=(),
    jitter_factors=(1.0, 1.0, 1.0, 0.0),
    rescale_size=SIZE,
    crop=(0, *SIZE[:1], 0, *SIZE[1:]),
    flip=False,
    cutout_grid=None,
)


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def _draw(seed, settings=SETTINGS):
    return draw_decisions(settings, SIZE, np.random.default_rng(seed), crop_size=CROP)


@pytest.mark.parametrize("denorm", ["truncate", "round"])
@pytest.mark.parametrize("seed", range(6))
def test_bytes_equal_the_denormalised_floats(image, seed, denorm):
    settings = dataclasses.replace(SETTINGS, cutout_probability=0.5)
    decisions = _draw(seed, settings)
    expected = image_ops.denormalise(
        strong_augment_normalised(image, decisions), denorm
    )
    result = strong_augment(image, decisions, denorm=denorm)
    np.testing.assert_array_equal(result, expected)
    assert result.shape == (*CROP, 3)


def test_no_decision_and_rounding_is_the_identity(image):
    np.testing.assert_array_equal(strong_augment(image, NOTHING, denorm="round"), image)


def test_flip_comes_after_the_crop(image):
    decisions = dataclasses.replace(NOTHING, crop=(4, 36, 10, 74), flip=True)
    np.testing.assert_array_equal(
        strong_augment(image, decisions, denorm="round"), image[4:36, 10:74][:, ::-1]
    )


def test_input_is_left_alone(image):
    before = image.copy()
    strong_augment(
        image, dataclasses.replace(NOTHING, cutout_grid=np.zeros((6, 12), "f4"))
    )
    np.testing.assert_array_equal(image, before)


def test_decisions_follow_their_generator_and_limits():
    drawn = [_draw(seed) for seed in range(300)]
    assert drawn[0].rescale_size == _draw(0).rescale_size
    for d in drawn:
        y1, y2, x1, x2 = d.crop
        assert (y2 - y1, x2 - x1) == CROP
        assert 0 <= y1 <= y2 <= d.rescale_size[0]
        assert 0 <= x1 <= x2 <= d.rescale_size[1]
        assert 36 <= d.rescale_size[0] <= 60
        assert d.gray == (d.jitter_order == ())
    assert 0.4 < np.mean([d.blur_sigma is not None for d in drawn]) < 0.6
    assert 0.03 < np.mean([d.gray for d in drawn]) < 0.18
    assert 0.15 < np.mean([d.cutout_grid is not None for d in drawn]) < 0.35


def test_operation_of_strength_zero_is_left_out():
    settings = dataclasses.replace(
        SETTINGS, jitter=(0.5, 0.0, 0.0, 0.0), colour_probability=1.0
    )
    assert _draw(0, settings).jitter_order == (0,)


def test_cutout_cells_smaller_than_the_crop_may_not_exist():
    settings = AugmentSettings(cutout_cell=64, cutout_probability=1.0)
    assert _draw(0, settings).cutout_grid is None


def test_cutout_keeps_cells_above_the_ratio():
    grid = np.array([[0.1, 0.25, 0.26]], np.float32)
    keep = cutout_keep(grid, (2, 6), 0.25)
    assert keep.tolist() == [[0, 0, 0, 0, 1, 1]] * 2


def test_crop_larger_than_the_smallest_scale_is_refused():
    SETTINGS.check((640, 1280), (480, 960))
    with pytest.raises(ConfigError, match=r"\(480, 960\).*\(450, 900\)"):
        SETTINGS.check((600, 1200), (480, 960))


@pytest.mark.parametrize("seed", range(12))
def test_only_what_the_crop_needs_is_worked_on(image, seed):
    settings = dataclasses.replace(SETTINGS, scale_range=(0.7, 2.5))
    decisions = _draw(seed, settings)
    whole = image
    if decisions.blur_sigma is not None:
        whole = image_ops.blur5(whole, decisions.blur_sigma)
    for operation in decisions.jitter_order:
        factor = decisions.jitter_factors[operation]
        whole = image_ops.JITTER[operation](whole, factor)
    if decisions.gray:
        whole = image_ops.grayscale(whole)
    whole = image_ops.resize(whole, decisions.rescale_size, "bicubic")
    crop = image_ops.crop(whole, decisions.crop)
    expected = image_ops.flip(crop) if decisions.flip else crop
    np.testing.assert_array_equal(augment_bytes(image, decisions), expected)
