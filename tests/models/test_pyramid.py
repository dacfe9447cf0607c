"""Networks with `encode`, `decode`, `classify` and `project`."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from sfda_jax.models import (
    daformer,
    deeplab_v2_projection,
    parameter_groups,
    segformer,
    upernet,
)
from sfda_jax.models.parameter_groups import rate_and_decay
from sfda_jax.models.upernet import pool_to
from sfda_jax.registry import list_names

QUICK = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}
ENCODER = {
    "embed_dims": (4, 4, 6, 8),
    "depths": (1, 1, 1, 1),
    "num_heads": (1, 2, 2, 2),
}
MODELS = {
    "daformer": daformer.Model(
        5, **ENCODER, embed_channels=3, channels=6, dilations=(1, 2)
    ),
    "segformer": segformer.Model(5, **ENCODER, channels=6),
    "upernet": upernet.Model(5, **ENCODER, channels=6),
}
DEEPLAB = deeplab_v2_projection.Model(
    5, stem_channels=4, planes=(1, 1, 2, 2), blocks=(1, 1, 1, 1), projection_channels=7
)


def shapes_of(model):
    x = jax.ShapeDtypeStruct((1, 33, 33, 3), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), x)


def variables_of(model):
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        drawn = 0.4 * rng.normal(size=leaf.shape)
        return jnp.asarray(drawn + (path[-1].key in ("scale", "var")), jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes_of(model))


@pytest.mark.parametrize("name", MODELS)
def test_is_a_known_network_with_backbone_head_and_projection(name):
    assert name in list_names("models")
    model = MODELS[name]
    assert set(shapes_of(model)["params"]) == {"backbone", "head"}
    both = shapes_of(model.clone(projection_channels=7))
    assert set(both["params"]) == {"backbone", "head", "projection"}
    x = jax.ShapeDtypeStruct((2, 48, 65, 3), jnp.float32)

    def run(variables, x):
        half = model.clone(projection_channels=7, dtype="bfloat16")
        output = half.apply(variables, x)
        maps = half.apply(variables, x, method="encode")
        projections = half.apply(variables, maps, method="project")
        return output.logits, output.features, projections

    found = jax.eval_shape(run, both, x)
    assert [y.shape for y in found] == [(2, 12, 17, depth) for depth in (5, 6, 7)]
    assert all(y.dtype == jnp.float32 for y in found)


@pytest.mark.parametrize(
    "model",
    [MODELS["daformer"].clone(projection_channels=7, dropout=0.5), DEEPLAB],
    ids=["daformer", "deeplab"],
)
def test_steps_give_the_output_and_projections_have_unit_length(model):
    variables = variables_of(model)
    images = jnp.asarray(np.random.default_rng(1).normal(size=(2, 41, 64, 3)))
    images = images.astype(jnp.float32)

    def steps(model, images):
        maps = model.encode(images)
        features = model.decode(maps)
        return model.classify(features), model.project(maps), features

    @jax.jit(compiler_options=QUICK)
    def run(variables):
        output = model.apply(variables, images)
        return output, model.apply(variables, images, method=steps)

    output, (logits, projections, features) = run(variables)
    np.testing.assert_allclose(output.logits, logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(output.features, features, rtol=1e-5, atol=1e-6)
    assert projections.shape == (*logits.shape[:3], 7)
    assert (projections >= 0).all()
    np.testing.assert_allclose(jnp.linalg.norm(projections, axis=-1), 1, atol=1e-5)


def test_recomputed_head_gives_the_same_gradient_and_statistics():
    plain = MODELS["segformer"].clone(dropout=0.5)
    variables = variables_of(plain)
    maps = [(8, 9, 4), (4, 5, 4), (2, 3, 6), (1, 2, 8)]
    rng = np.random.default_rng(2)
    maps = tuple(jnp.asarray(rng.normal(size=(2, *size)), jnp.float32) for size in maps)

    def run(model):
        def loss(params, maps):
            features, changed = model.apply(
                {**variables, "params": params},
                maps,
                deterministic=True,
                use_running_average=False,
                method="decode",
                mutable=["batch_stats"],
            )
            return jnp.square(features).sum(), changed

        step = jax.jit(jax.grad(loss, (0, 1), has_aux=True), compiler_options=QUICK)
        return step(variables["params"], maps)

    found, expected = run(plain.clone(remat=("head",))), run(plain)
    for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_projection_of_nothing_has_a_finite_gradient():
    model = DEEPLAB
    variables = jax.tree.map(jnp.zeros_like, variables_of(model))
    maps = (jnp.ones((1, 2, 2, 8)),)

    def loss(variables):
        return model.apply(variables, maps, method="project").sum()

    step = jax.jit(jax.value_and_grad(loss), compiler_options=QUICK)
    value, gradient = step(variables)
    assert value == 0
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_pooling_over_cells():
    x = jnp.arange(5.0).reshape(1, 5, 1, 1)
    np.testing.assert_allclose(pool_to(x, 2)[0, :, 0, 0], [1, 3], rtol=1e-6)
    np.testing.assert_allclose(pool_to(x, 6)[0, :, 0, 0], [0, 0.5, 1.5, 2.5, 3.5, 4])


def test_rates_and_decays():
    assert doctest.testmod(parameter_groups).failed == 0
    params = shapes_of(MODELS["daformer"].clone(projection_channels=7))["params"]
    groups = {p: rate_and_decay(p) for p in traverse_util.flatten_dict(params)}
    assert set(groups.values()) == {(1.0, 0.0), (1.0, 1.0), (10.0, 1.0)}
    assert groups["projection", "layer1", "bn", "bias"] == (10.0, 1.0)
    assert groups["backbone", "norm4", "bias"] == (1.0, 0.0)
    assert groups["backbone", "stage2_0", "attn", "q", "bias"] == (1.0, 1.0)
    assert rate_and_decay(("head", "x"), head_rate=1.0) == (1.0, 1.0)
