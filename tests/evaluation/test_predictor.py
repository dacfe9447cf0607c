import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sfda_jax.errors import ConfigError
from sfda_jax.evaluation.predictor import Views, make_predictor, merge_views
from sfda_jax.ops.color import normalize
from sfda_jax.ops.resize import resize_bilinear
from sfda_jax.pseudo_labels.inference import Inference
from tests.evaluation.tiny_network import tiny


def images(shape=(2, 12, 20, 3)):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def run(model, variables, x):
    return model.apply(
        variables, x, deterministic=True, use_running_average=True
    ).logits


def test_plain_is_softmax_of_enlarged_logits():
    model, variables = tiny(5)
    x = normalize(images())
    probs = jax.jit(make_predictor(model, label_size=(24, 41)))(variables, x)
    logits = resize_bilinear(run(model, variables, x), (24, 41), align_corners=True)
    assert probs.shape == (2, 24, 41, 5)
    np.testing.assert_allclose(probs, jax.nn.softmax(logits), atol=1e-6)


def test_raw_and_normalised_images_agree():
    model, variables = tiny(3)
    predict = make_predictor(model, label_size=(12, 20))
    np.testing.assert_array_equal(
        predict(variables, jnp.asarray(images())),
        predict(variables, normalize(images())),
    )


def test_flip_prediction_mirrors_with_the_image():
    model, variables = tiny(4)
    views = Views(flip=True, scales=(0.7, 1.3))
    predict = make_predictor(model, label_size=(12, 20), views=views)
    x = normalize(images())
    probs = predict(variables, x)
    np.testing.assert_allclose(probs.sum(-1), np.ones((2, 12, 20)), atol=1e-5)
    mirrored = predict(variables, x[:, :, ::-1])[:, :, ::-1]
    np.testing.assert_allclose(mirrored, probs, atol=1e-5)


def softmax_at(logits, size):
    return jax.nn.softmax(resize_bilinear(logits, size, align_corners=True))


def views_by_hand(model, variables, x, views):
    """(size of the view, its logits) of every view, turned back."""
    for size in views.sizes(x.shape[1:3]):
        view = resize_bilinear(x, size, align_corners=True)
        yield size, run(model, variables, view)
        if views.flip:
            yield size, run(model, variables, view[:, :, ::-1])[:, :, ::-1]


@pytest.mark.parametrize("average", ["probs", "logits", "view_probs", "stride_probs"])
def test_what_is_averaged(average):
    model, variables = tiny(4)
    x, label_size = 3 * normalize(images()), (25, 41)
    views = Views(scales=(0.5, 1.0, 1.5), flip=True, average=average)
    predict = jax.jit(make_predictor(model, label_size=label_size, views=views))
    found = predict(variables, x)

    def enlarged(maps):
        return resize_bilinear(maps, label_size, align_corners=True)

    seen = list(views_by_hand(model, variables, x, views))
    expected = {
        "probs": sum(softmax_at(logits, label_size) for _, logits in seen) / 6,
        "logits": jax.nn.softmax(sum(enlarged(logits) for _, logits in seen) / 6),
        "view_probs": sum(enlarged(softmax_at(lo, size)) for size, lo in seen) / 6,
        "stride_probs": sum(enlarged(jax.nn.softmax(lo)) for _, lo in seen) / 6,
    }
    np.testing.assert_allclose(found, expected[average], rtol=0, atol=1e-5)
    for other in expected.keys() - {average}:
        assert np.abs(found - expected[other]).max() > 1e-3, other


@pytest.mark.parametrize("average", ["logits", "view_probs", "stride_probs"])
def test_sizes_of_views_need_not_keep_the_shape(average):
    model, variables = tiny(4)
    x, label_size = normalize(images((1, 12, 20, 3))), (12, 20)

    def predicted(**which):
        views = Views(flip=True, average=average, **which)
        return make_predictor(model, label_size=label_size, views=views)(variables, x)

    sizes = ((6, 10), (12, 20), (18, 30))
    np.testing.assert_array_equal(
        predicted(view_sizes=sizes), predicted(scales=(0.5, 1.0, 1.5))
    )
    squeezed = predicted(view_sizes=((20, 12),))
    seen = resize_bilinear(x, (20, 12), align_corners=True)
    views = Views(flip=True, average=average)
    predict = make_predictor(model, label_size=label_size, views=views)
    np.testing.assert_allclose(squeezed, predict(variables, seen), rtol=0, atol=1e-6)


def test_class_maps_are_those_of_labelling():
    model, variables = tiny(4)
    x = jnp.asarray(images((2, 13, 21, 3)))
    views = Views(flip=True, average="class_maps")
    found = make_predictor(model, label_size=(26, 40), views=views)(variables, x)
    inference = Inference(flip=True, enlarge="class_maps", label_size=(26, 40))
    expected = inference.make_scores(model)(variables, x)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_class_maps_of_scales_are_averaged():
    model, variables = tiny(4)
    x = normalize(images((1, 16, 24, 3)))

    def predicted(*scales):
        views = Views(scales=scales, average="class_maps")
        return make_predictor(model, label_size=(16, 24), views=views)(variables, x)

    half, whole, both = predicted(0.5), predicted(1.0), predicted(0.5, 1.0)
    np.testing.assert_allclose(both, (half + whole) / 2, rtol=0, atol=1e-6)


def test_wrong_settings_are_named():
    with pytest.raises(ConfigError, match="view_probs"):
        Views(average="view_prob")
    logits = (jnp.zeros((1, 2, 2, 3)),)
    with pytest.raises(ValueError, match="input_size"):
        merge_views(logits, (4, 4), Views(average="view_probs"))
    weights = np.ones(3, np.float32)
    with pytest.raises(ValueError, match="class_weights"):
        merge_views(logits, (4, 4), Views(average="logits"), class_weights=weights)
