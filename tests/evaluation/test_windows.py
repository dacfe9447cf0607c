import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sfda_jax.evaluation import windows as windows_module
from sfda_jax.evaluation.class_prior import CITYSCAPES_FREQUENCIES, class_weights
from sfda_jax.evaluation.predictor import Views, make_predictor, view_logits
from sfda_jax.evaluation.windows import Windows, starts, window_logits
from sfda_jax.ops.resize import resize_bilinear
from tests.evaluation.tiny_network import tiny


def images(*size):
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.normal(size=(2, *size, 3)), jnp.float32)


def halved(x):
    """A network: every second pixel, two of three channels."""
    return x[:, ::2, ::2, :2]


def test_examples():
    assert doctest.testmod(windows_module).failed == 0


@pytest.mark.parametrize(
    ("length", "window", "stride", "expected"),
    [(8, 8, 3, [0]), (9, 8, 3, [0, 1]), (16, 4, 4, [0, 4, 8, 12]), (5, 2, 4, [0, 3])],
)
def test_starts_reach_the_end_and_stay_inside(length, window, stride, expected):
    assert starts(length, window, stride) == expected


def test_overlapping_windows_are_averaged():
    x = images(10, 13)
    found = window_logits(halved, x, Windows(size=(6, 8), stride=(4, 3)))
    total, counts = np.zeros((2, 10, 13, 2)), np.zeros((1, 10, 13, 1))
    for top in (0, 4):
        for left in (0, 3, 5):
            part = halved(x[:, top : top + 6, left : left + 8])
            logits = resize_bilinear(part, (6, 8), align_corners=False)
            total[:, top : top + 6, left : left + 8] += logits
            counts[:, top : top + 6, left : left + 8] += 1
    np.testing.assert_allclose(found, total / counts, atol=1e-6)


@pytest.mark.parametrize("size", [None, (6, 8), (60, 80)])
def test_an_image_inside_one_window_is_enlarged_as_a_whole(size):
    x = images(6, 8)
    found = window_logits(halved, x, Windows(size=size, stride=(2, 2)))
    expected = resize_bilinear(halved(x), (6, 8), align_corners=False)
    np.testing.assert_array_equal(found, expected)


def test_views_are_cut_after_scaling_and_turned_back():
    model, variables = tiny(3)
    x = images(12, 16)
    cut = Windows(size=(6, 6), stride=(3, 3))
    views = jax.jit(
        lambda v, x: view_logits(
            model, v, x, Views(scales=(1.0, 0.5), flip=True, windows=cut)
        )
    )(variables, x)
    assert [v.shape for v in views] == [(2, 12, 16, 3)] * 2 + [(2, 6, 8, 3)] * 2
    mirrored = view_logits(model, variables, x[:, :, ::-1], Views(windows=cut))[0]
    np.testing.assert_allclose(views[1], mirrored[:, :, ::-1], atol=1e-5)


def test_weights_of_the_published_frequencies():
    weights = class_weights(np.asarray(CITYSCAPES_FREQUENCIES, np.float32))
    published = [0.6932, 0.8536, 0.7359, 1.0519, 1.0259, 0.9961, 1.1541, 1.0673]
    np.testing.assert_allclose(weights[:8], published, atol=5e-5)
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights.std(ddof=1), 0.16, rtol=1e-4)


def test_weighted_probabilities_favour_the_weighted_class():
    model, variables = tiny(3)
    centres = Views(align_corners=False)
    predict = make_predictor(model, label_size=(12, 16), views=centres)
    probs = predict(variables, images(12, 16))
    weights = np.asarray([1.0, 2.0, 1.0], np.float32)
    weighted = make_predictor(
        model,
        label_size=(6, 8),
        views=centres,
        class_weights=weights,
    )(variables, images(12, 16))
    plain = make_predictor(model, label_size=(6, 8), views=centres)
    expected = plain(variables, images(12, 16)) * weights[None, None, None]
    np.testing.assert_allclose(weighted, expected, atol=1e-6)
    assert probs.shape == (2, 12, 16, 3)
