import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sfda_jax.errors import ConfigError
from sfda_jax.models import simclr
from sfda_jax.models.forward import network_input
from sfda_jax.models.layers import BatchNorm, Conv
from tests.models import drawn

_NORM = functools.partial(BatchNorm, eps=1e-5)
SMALL = simclr.Model(
    num_classes=5, stem_channels=8, planes=(2, 2, 3, 3), blocks=(1, 1, 1, 1)
)
_ANY = jnp.zeros((1, 33, 33, 3))


def _images(*shape):
    return jnp.asarray(np.random.default_rng(1).random(shape), jnp.float32)


@pytest.mark.parametrize("sk_ratio", [0.0625, 0.0])
def test_features_at_stride_32_and_the_classifier_at_every_position(sk_ratio):
    model = SMALL.clone(sk_ratio=sk_ratio)
    variables = drawn.variables(model.init, _ANY)
    images = _images(2, 65, 96, 3)
    output = jax.jit(model.apply)(variables, images)
    assert output.features.shape == (2, 3, 3, 12)
    assert output.logits.shape == (2, 3, 3, 5)
    assert output.features.min() == 0 and output.features.max() > 0
    again = model.apply(variables, output.features, method="classify")
    np.testing.assert_allclose(again, output.logits, rtol=1e-5, atol=1e-6)


def test_equal_branches_are_mixed_to_one_of_them():
    x = _images(2, 7, 8, 3)
    mode = {"use_running_average": True}
    unit = simclr.SelectiveKernel(4, 2, 0.0625, _NORM)
    variables = drawn.variables(unit.init, x, **mode)
    halves, twice = {}, {}
    for collection, tree in variables.items():
        main = {name: tree[name] for name in ("conv", "bn") if name in tree}
        halves[collection] = jax.tree.map(lambda leaf: leaf[..., :4], main)
        doubled = jax.tree.map(lambda leaf: jnp.tile(leaf, 2), halves[collection])
        twice[collection] = {**tree, **doubled}
    y = unit.apply(twice, x, **mode)
    conv = Conv(4, 3, stride=2, padding=1)
    branch = conv.apply({"params": halves["params"]["conv"]}, x)
    norm = {name: tree["bn"] for name, tree in halves.items()}
    expected = jax.nn.relu(_NORM().apply(norm, branch, **mode))
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("stride", "size"), [(1, 4), (2, 2)])
def test_the_projections_zeros_count_in_its_mean(stride, size):
    unit = simclr.Projection(1, stride, _NORM)
    x, mode = jnp.ones((1, 4, 4, 1)), {"use_running_average": True}
    variables = jax.tree.map(jnp.ones_like, drawn.variables(unit.init, x, **mode))
    # Scale, shift, mean and variance of 1 leave the values as they are.
    y = np.asarray(unit.apply(variables, x, **mode))[0, :, :, 0]
    expected = np.ones((size, size))
    if stride == 1:
        expected[-1] *= 0.5
        expected[:, -1] *= 0.5
    np.testing.assert_allclose(y, expected, rtol=1e-4)


def test_scan_and_remat_change_no_value():
    plain = SMALL.clone(blocks=(1, 1, 5, 1))
    variables = drawn.variables(plain.init, _ANY)
    images = _images(1, 40, 48, 3)
    scanned = plain.clone(scan_blocks=True, remat=("layer1",))
    y, other_y = (
        jax.jit(functools.partial(model.apply, method="features"))(variables, images)
        for model in (plain, scanned)
    )
    np.testing.assert_allclose(other_y, y, rtol=1e-5, atol=1e-6)


def test_bfloat16_gives_float32_features():
    variables = drawn.variables(SMALL.init, _ANY)
    images = _images(1, 64, 64, 3)
    full, half = (
        jax.jit(functools.partial(model.apply, method="features"))(variables, images)
        for model in (SMALL, SMALL.clone(dtype="bfloat16"))
    )
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, full, rtol=0.1, atol=0.1 * float(full.max()))


def test_images_are_scaled_to_one_and_no_more():
    images = jnp.asarray([[[[0, 51, 255]]]], jnp.uint8)
    np.testing.assert_allclose(network_input(SMALL, images), [[[[0, 0.2, 1]]]])


def test_unknown_stage_to_rematerialise():
    model = SMALL.clone(remat=("layer5",))
    with pytest.raises(ConfigError, match="layer5"):
        drawn.variables(model.init, _ANY)
