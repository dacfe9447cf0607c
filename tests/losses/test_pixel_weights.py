import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from sfda_jax.losses.cross_entropy import pixel_cross_entropy
from sfda_jax.losses.pixel_weights import (
    LabelledFeatures,
    adam_weights,
    loss_weights,
    weight_gradient,
)
from sfda_jax.models import tiny
from sfda_jax.models.forward import head_logits
from sfda_jax.ops.resize import resize_bilinear
from sfda_jax.types import IGNORE

CLASSES, CHANNELS = 3, 4
MODEL = tiny.Model(num_classes=CLASSES, width=CHANNELS // 2)


def _linear(params, features):
    """A head that can be differentiated forwards too."""
    return features @ params["kernel"] + params["bias"][None, None, None]


def _convolutions(params, features):
    return head_logits(MODEL, params, features)


def _random(seed, *shape):
    values = np.random.default_rng(seed).normal(size=shape)
    return jnp.asarray(values, jnp.float32)


def _linear_params():
    return {"kernel": _random(0, CHANNELS, CLASSES), "bias": _random(1, CLASSES)}


def _convolution_params():
    return {
        f"branch{i}": {
            "kernel": _random(i, 3, 3, CHANNELS, CLASSES) * 0.3,
            "bias": _random(i + 5, CLASSES),
        }
        for i in range(len(MODEL.dilations))
    }


def _batch(seed, *, size=4, labels=(8, 12)):
    """Every image of it has another number of labels."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(CLASSES, size=(size, *labels))
    for i, image in enumerate(ids):
        image[rng.random(image.shape) < 0.2 * i] = IGNORE
    features = _random(seed, size, 3, 4, CHANNELS)
    return LabelledFeatures(features, jnp.asarray(ids, jnp.int32))


PSEUDO, STABLE = _batch(0), _batch(1, labels=(5, 9))


def _gradient(head, params, pseudo, stable, axis_name=None, align_corners=True):
    return weight_gradient(
        head, params, pseudo, stable, align_corners=align_corners, axis_name=axis_name
    )


# Compiled once for all tests that share its shapes.
_compiled = jax.jit(functools.partial(_gradient, _convolutions))


def _losses(params, batch, align_corners):
    size = batch.labels.shape[1:]
    logits = _linear(params, batch.features)
    logits = resize_bilinear(logits, size, align_corners=align_corners)
    return pixel_cross_entropy(logits, batch.labels)


@pytest.mark.parametrize("align_corners", [True, False])
def test_gradient_is_what_the_chain_rule_says(align_corners):
    """The step is linear in the weights, so one forward derivative gives the same."""
    losses = functools.partial(_losses, align_corners=align_corners)

    @jax.jit
    def by_hand(params):
        step = jax.grad(lambda q: losses(q, PSEUDO).mean())(params)
        moved = jax.tree.map(lambda q, g: q - 0.1 * g, params, step)
        stable = jax.value_and_grad(lambda q: losses(q, STABLE).mean())
        after, direction = stable(moved)
        before, along = jax.jvp(lambda q: losses(q, PSEUDO), (params,), (direction,))
        return before.mean(), after, -0.1 * along / along.size

    compute = functools.partial(_gradient, _linear, align_corners=align_corners)
    found = jax.jit(compute)(_linear_params(), PSEUDO, STABLE)
    before, after, expected = by_hand(_linear_params())
    assert jnp.abs(expected).max() > 1e-5
    np.testing.assert_allclose(found.gradient, expected, rtol=1e-4, atol=1e-10)
    np.testing.assert_allclose(found.inner_loss, before, rtol=1e-6)
    np.testing.assert_allclose(found.stable_loss, after, rtol=1e-6)


def test_factors_are_one_over_all_pixels():
    """Twice the same batch: the same step, so half of the gradient for each pixel."""
    params = _convolution_params()
    twice = jax.tree.map(lambda x: jnp.concatenate([x, x]), PSEUDO)
    once = _compiled(params, PSEUDO, STABLE)
    found = _compiled(params, twice, STABLE)
    np.testing.assert_allclose(
        found.gradient[:4], once.gradient / 2, rtol=1e-4, atol=1e-9
    )
    np.testing.assert_allclose(found.stable_loss, once.stable_loss, rtol=1e-6)


def test_ignored_pixels_keep_their_weight():
    found = _compiled(_convolution_params(), PSEUDO, STABLE)
    ignored = PSEUDO.labels == IGNORE
    assert ignored.any()
    assert not found.gradient[ignored].any()
    assert found.gradient[~ignored].all()
    weights = adam_weights(found.gradient, jnp.zeros_like(ignored))
    np.testing.assert_array_equal(weights[ignored], 1)


@pytest.mark.parametrize("which", ["pseudo", "stable"])
def test_nothing_labelled(which):
    batches = {"pseudo": PSEUDO, "stable": STABLE}
    none = jnp.full_like(batches[which].labels, IGNORE)
    batches[which] = batches[which]._replace(labels=none)
    found = _compiled(_convolution_params(), batches["pseudo"], batches["stable"])
    np.testing.assert_array_equal(found.gradient, 0)
    losses = {"pseudo": found.inner_loss, "stable": found.stable_loss}
    assert losses.pop(which) == 0
    assert losses.popitem()[1] > 0


@pytest.mark.parametrize("devices", [2, 4])
def test_pmap_equals_one_device(devices):
    params = _convolution_params()
    whole = _compiled(params, PSEUDO, STABLE)
    shards = [
        jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), batch)
        for batch in (PSEUDO, STABLE)
    ]
    parts = jax.pmap(
        functools.partial(_gradient, _convolutions, axis_name="d"),
        axis_name="d",
        in_axes=(None, 0, 0),
        devices=jax.devices()[:devices],
    )(params, *shards)
    gradient = parts.gradient.reshape(whole.gradient.shape)
    assert jnp.abs(whole.gradient).max() > 1e-6
    np.testing.assert_allclose(gradient, whole.gradient, rtol=1e-4, atol=1e-10)
    for part, expected in zip(parts[1:], whole[1:], strict=True):
        np.testing.assert_allclose(part.sum(), expected, rtol=1e-6)


def test_jit_on_a_mesh_equals_one_device():
    mesh = jax.make_mesh((4,), ("d",), axis_types=(AxisType.Auto,))
    everywhere, split = NamedSharding(mesh, P()), NamedSharding(mesh, P("d"))
    compute = functools.partial(_gradient, _convolutions)
    arguments = _convolution_params(), PSEUDO, STABLE
    whole = _compiled(*arguments)
    spread = jax.jit(compute, in_shardings=(everywhere, split, split))(*arguments)
    for value, expected in zip(spread, whole, strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-10)


def test_adam_minds_its_epsilon():
    gradient = jnp.asarray([[[0.0, 1.0, -1.0, 1e-8, -3e-8, 1e-10]]])
    pasted = jnp.zeros(gradient.shape, bool)
    np.testing.assert_allclose(
        adam_weights(gradient, pasted),
        [[[1, 0.1, 1.9, 0.55, 1.675, 1 - 0.9 / 101]]],
        rtol=1e-6,
    )
    np.testing.assert_allclose(
        adam_weights(gradient, pasted, rate=0.5, epsilon=1.0)[0, 0, 1:3], [0.75, 1.25]
    )


def test_pasted_pixels_weigh_one():
    gradient = jnp.asarray([[[1.0, -1.0]]])
    weights = adam_weights(gradient, jnp.asarray([[[True, False]]]))
    np.testing.assert_allclose(weights, [[[1, 1.9]]], rtol=1e-6)


def test_loss_weights():
    weights = loss_weights(jnp.asarray([[[0.1, 1.0, 1.9]]]))
    np.testing.assert_allclose(weights, [[[0.70328, 1, 1.72980]]], rtol=1e-5)
