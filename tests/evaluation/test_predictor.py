import jax
import jax.numpy as jnp
import numpy as np

from sfda_jax.evaluation.predictor import make_predictor
from sfda_jax.ops.color import normalize
from sfda_jax.ops.resize import resize_bilinear
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
    predict = make_predictor(model, label_size=(12, 20), flip=True, scales=(0.7, 1.3))
    x = normalize(images())
    probs = predict(variables, x)
    np.testing.assert_allclose(probs.sum(-1), np.ones((2, 12, 20)), atol=1e-5)
    mirrored = predict(variables, x[:, :, ::-1])[:, :, ::-1]
    np.testing.assert_allclose(mirrored, probs, atol=1e-5)
