import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sfda_jax.models import deeplab_v2, deeplab_v2_vgg, deeplab_v3_plus, tiny
from sfda_jax.weights.layout import init_state

MODELS = {
    "deeplab_v2": deeplab_v2.Model(
        num_classes=5, stem_channels=4, planes=(1, 2, 2, 3), blocks=(1, 1, 2, 1)
    ),
    "deeplab_v2_vgg": deeplab_v2_vgg.Model(
        num_classes=5, planes=(2, 2, 3, 3, 3), blocks=(1, 1, 1, 1, 2), fc_planes=4
    ),
    "deeplab_v3_plus": deeplab_v3_plus.Model(
        num_classes=5,
        stem_channels=4,
        planes=(1, 2, 2, 3),
        blocks=(1, 1, 1, 1),
        head_channels=4,
        low_channels=2,
    ),
    "tiny": tiny.Model(num_classes=5, width=4, block_dilations=(2,)),
}


def _variables(model):
    """Variables drawn by NumPy: compiling the initialisers takes far longer."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        if path[-1].key in ("scale", "var"):
            return jnp.ones(leaf.shape)
        return jnp.asarray(rng.normal(size=leaf.shape, scale=0.2), jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, _shapes(model))


def _shapes(model):
    images = jnp.zeros((1, 33, 33, 3))
    return jax.eval_shape(lambda: model.init(jax.random.key(0), images))


def _count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _images(*shape):
    return jnp.asarray(np.random.default_rng(1).normal(size=shape), jnp.float32)


@pytest.mark.parametrize("name", MODELS)
def test_output_shapes_groups_and_classify(name):
    model = MODELS[name]
    variables = _variables(model)
    assert set(variables["params"]) == {"backbone", "head"}
    images = _images(2, 48, 64, 3)
    output = jax.jit(model.apply)(variables, images)
    size = (48 // model.stride, 64 // model.stride)
    assert output.logits.shape == (2, *size, 5)
    assert output.features.shape[:3] == (2, *size)
    again = model.apply(variables, output.features, method="classify")
    np.testing.assert_allclose(again, output.logits, rtol=1e-5, atol=1e-6)
    features = jax.jit(lambda v, x: model.apply(v, x, method="features"))
    np.testing.assert_allclose(features(variables, images), output.features, rtol=1e-5)


@pytest.mark.parametrize("name", ["deeplab_v2", "deeplab_v3_plus", "tiny"])
def test_odd_sizes_bfloat16_and_float32_outputs(name):
    model = MODELS[name]
    variables = _variables(model)
    images = _images(1, 41, 67, 3)
    full = jax.jit(model.apply)(variables, images)
    half = jax.jit(model.clone(dtype="bfloat16").apply)(variables, images)
    assert half.logits.dtype == half.features.dtype == jnp.float32
    stride = model.stride
    assert full.logits.shape[1:3] == (-(-41 // stride), -(-67 // stride))
    np.testing.assert_allclose(half.logits, full.logits, rtol=0.1, atol=0.1)


def test_frozen_norm_gives_parameters_no_affine_vectors():
    params = _shapes(MODELS["deeplab_v2"])["params"]
    assert all(leaf.ndim == 4 for leaf in jax.tree.leaves(params["backbone"]))
    trained = MODELS["deeplab_v2"].clone(frozen_bn=False, bn_eps=1e-5)
    assert "bn1" in _shapes(trained)["params"]["backbone"]


def test_full_size_counts():
    shapes = _shapes(deeplab_v2.Model(num_classes=19))
    assert _count(shapes["params"]["backbone"]) == 42_394_816
    assert _count(shapes["params"]["head"]) == 1_400_908
    assert _count(shapes["batch_stats"]) == 210_688


def test_statistics_can_be_re_estimated_with_momentum_one():
    model = MODELS["deeplab_v2"].clone(bn_momentum=1.0)
    variables = _variables(model)
    _, new = jax.jit(
        lambda v, x: model.apply(
            v, x, use_running_average=False, mutable=["batch_stats"]
        )
    )(variables, _images(2, 33, 33, 3))
    old, new = variables["batch_stats"], new["batch_stats"]
    assert not (old["backbone"]["bn1"]["mean"] == new["backbone"]["bn1"]["mean"]).any()
    np.testing.assert_array_equal(
        old["backbone"]["bn1"]["scale"], new["backbone"]["bn1"]["scale"]
    )


def test_tiny_size_and_gradient():
    shapes = _shapes(tiny.Model(num_classes=19))
    assert 2e5 < _count(shapes["params"]) < 3.5e5
    model = MODELS["tiny"]
    variables = _variables(model)

    def spread(params):
        images = _images(2, 32, 32, 3)
        return model.apply({**variables, "params": params}, images).logits.std()

    gradient = jax.jit(jax.grad(spread))(variables["params"])
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert jnp.abs(gradient["backbone"]["conv1"]["kernel"]).max() > 0


def test_initial_values():
    model = MODELS["deeplab_v2"].clone(blocks=(1, 1, 1, 1))
    params = init_state(model, jax.random.key(0)).params
    kernel = params["backbone"]["conv1"]["kernel"]
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (49 * 4)), rtol=0.1)
    branch = params["head"]["branch0"]
    np.testing.assert_allclose(branch["kernel"].std(), 0.01, rtol=0.2)
    assert (jnp.abs(branch["bias"]) <= 1 / np.sqrt(9 * 12)).all()


def test_fresh_deep_network_stays_finite():
    model = deeplab_v2.Model(
        num_classes=3, stem_channels=4, planes=(2, 2, 2, 2), blocks=(3, 4, 23, 3)
    )
    images = jax.random.normal(jax.random.key(1), (1, 32, 32, 3))
    variables = model.init(jax.random.key(0), images)
    assert float(jnp.abs(model.apply(variables, images).logits).max()) < 100
