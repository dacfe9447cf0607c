import numpy as np
import pytest

from sfda_jax.data.copy_paste import COMPANIONS_19, RngDraws, copy_paste

POLE, SIGN, RIDER, CAR = 5, 7, 12, 13


def _draws(seed=0):
    return RngDraws(np.random.default_rng(seed))


def _paste(label, target, *, seed=0, size=(40, 60), **settings):
    base = np.zeros((*size, 3), np.uint8)
    candidate = np.full((*label.shape, 3), 200, np.uint8)
    return copy_paste(
        base,
        candidate,
        label,
        target,
        companions=settings.pop("companions", COMPANIONS_19),
        draws=_draws(seed),
        **settings,
    )


def _label(*boxes, size=(50, 50)):
    label = np.full(size, 255, np.uint8)
    for value, r0, r1, c0, c1 in boxes:
        label[r0:r1, c0:c1] = value
    return label


def test_same_size_object_is_copied_whole():
    label = _label((CAR, 3, 9, 5, 12))
    image, mix = _paste(label, CAR, scale_range=0.0)
    assert (mix == CAR).sum() == 42
    np.testing.assert_array_equal(image[..., 0] == 200, mix == CAR)


def test_companions_come_along_and_others_stay():
    label = _label((RIDER, 3, 9, 5, 12), (18, 9, 15, 5, 12), (CAR, 20, 30, 20, 30))
    _, mix = _paste(label, RIDER, scale_range=0.0)
    assert (mix == RIDER).sum() == 42
    assert (mix == 18).sum() == 42
    assert not (mix == CAR).any()


def test_any_class_space_gives_its_own_companions():
    label = _label((2, 3, 14, 5, 7), (6, 20, 26, 20, 26))
    _, mix = _paste(label, 2, companions={2: (6,)}, scale_range=0.0)
    assert {2, 6} <= set(np.unique(mix))
    _, alone = _paste(label, 2, companions={}, scale_range=0.0)
    assert set(np.unique(alone)) == {2, 255}


def test_small_components_are_skipped():
    label = _label((CAR, 0, 4, 0, 4), (CAR, 10, 20, 10, 12))
    _, mix = _paste(label, CAR, scale_range=0.0)
    assert (mix == CAR).sum() == 20
    _, all_of_them = _paste(label, CAR, scale_range=0.0, min_component_pixels=1)
    assert (all_of_them == CAR).sum() == 36


def test_diagonal_pixels_are_one_component():
    label = np.full((30, 30), 255, np.uint8)
    label[np.arange(25), np.arange(25)] = CAR
    _, mix = _paste(label, CAR, scale_range=0.0)
    assert (mix == CAR).sum() == 25


def test_object_as_large_as_the_image_is_skipped():
    label = _label((CAR, 0, 40, 0, 10))
    image, mix = _paste(label, CAR, scale_range=0.0)
    assert (mix == 255).all()
    assert not image.any()


def test_absent_class_changes_nothing():
    _, mix = _paste(_label(), CAR)
    assert (mix == 255).all()


@pytest.mark.parametrize("seed", range(5))
def test_scaled_objects_stay_inside_and_input_is_left_alone(seed):
    base = np.zeros((40, 60, 3), np.uint8)
    label = _label((POLE, 0, 15, 2, 4), (SIGN, 20, 28, 20, 28), (POLE, 30, 45, 9, 12))
    candidate = np.full((50, 50, 3), 9, np.uint8)
    image, mix = copy_paste(
        base, candidate, label, POLE, companions=COMPANIONS_19, draws=_draws(seed)
    )
    assert not base.any()
    np.testing.assert_array_equal(image[..., 0] == 9, mix != 255)
    assert set(np.unique(mix)) <= {POLE, SIGN, 255}


@pytest.mark.parametrize("step", [2, 3, 4])
@pytest.mark.parametrize("seed", range(3))
def test_labels_at_a_fraction_of_the_size(seed, step):
    rng = np.random.default_rng(seed)
    values = np.array([POLE, 6, SIGN, RIDER, 255], np.uint8)
    label = rng.choice(values, (15, 12), p=[0.2, 0.1, 0.1, 0.1, 0.5])
    candidate = rng.integers(0, 256, (15 * step, 12 * step, 3), dtype=np.uint8)
    results = [
        copy_paste(
            np.zeros((40, 60, 3), np.uint8),
            candidate,
            given,
            POLE,
            companions=COMPANIONS_19,
            draws=_draws(seed),
            scale_min=0.6,
            min_component_pixels=3 * step**2 - 1,
        )
        for given in (label, label.repeat(step, 0).repeat(step, 1))
    ]
    assert (results[0][1] == POLE).any()
    for small, whole in zip(*results, strict=True):
        np.testing.assert_array_equal(small, whole)
