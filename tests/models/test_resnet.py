import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sfda_jax.models import deeplab_v2, deeplab_v3_plus, discriminator
from sfda_jax.models.layers import max_pool3x3
from sfda_jax.models.parameter_groups import sgd_visits
from sfda_jax.models.resnet import ResNet
from sfda_jax.weights.layout import init_state
from tests.models import drawn

_SMALL = {"stem_channels": 4, "planes": (1, 2, 2, 3), "blocks": (1, 1, 3, 3)}


def _dilations(model):
    bound = model.bind({})
    return [
        [getattr(bound, f"layer{stage}_{i}").dilation for i in range(count)]
        for stage, count in enumerate(model.blocks, start=1)
    ]


def test_dilations_of_the_published_networks():
    released = deeplab_v2.PUBLISHED
    assert _dilations(ResNet(**_SMALL)) == [[1], [1], [1, 2, 2], [2, 4, 4]]
    crst = ResNet(**_SMALL, block_dilations=released["crst"]["block_dilations"])
    assert _dilations(crst) == [[1], [1], [2, 2, 2], [4, 4, 4]]
    bismap = ResNet(**_SMALL, block_dilations=deeplab_v3_plus.MULTI_GRID)
    assert _dilations(bismap) == [[1], [1], [1, 1, 1], [2, 4, 8]]


def _shapes(model, *size):
    """Shapes of logits and features."""

    def shapes():
        output, _ = model.init_with_output(jax.random.key(0), jnp.zeros((1, *size, 3)))
        return output.logits, output.features

    return [leaf.shape for leaf in jax.eval_shape(shapes)]


@pytest.mark.parametrize(("variant", "size"), [("crst", 65), ("iast", 64), ("atp", 64)])
def test_sizes_of_crops_of_512(variant, size):
    model = deeplab_v2.Model(3, **_SMALL, **deeplab_v2.PUBLISHED[variant])
    logits, _ = _shapes(model, 512, 512)
    assert logits == (1, size, size, 3)


def test_deeplab_v3_plus_strides():
    model = deeplab_v3_plus.Model(3, **_SMALL, head_channels=6)
    assert _shapes(model, 65, 97) == [(1, 17, 25, 3), (1, 17, 25, 6)]


@pytest.mark.parametrize("size", range(1, 9))
def test_pooling_rounds_up_where_asked(size):
    x = -jnp.arange(1.0, size + 1)[None, :, None, None] * jnp.ones((1, 1, size, 1))
    lengths = {False: (size - 1) // 2 + 1, True: -(-(size - 1) // 2) + 1}
    for ceil_mode, length in lengths.items():
        y = max_pool3x3(x, ceil_mode=ceil_mode)
        assert y.shape == (1, length, length, 1)
        starts = [max(2 * i - 1, 0) for i in range(length)]
        np.testing.assert_array_equal(y[0, :, 0, 0], [-(s + 1) for s in starts])


def test_fixed_statistics_of_the_backbone_stay_whatever_is_asked():
    settings = {**_SMALL, "blocks": (1, 1, 1, 1), "head_channels": 4}
    model = deeplab_v3_plus.Model(3, **settings, frozen_bn=True, fixed_bn=True)
    images = jax.random.normal(jax.random.key(0), (2, 33, 33, 3))
    variables = drawn.variables(model.init, images)
    _, after = jax.jit(
        lambda v: model.apply(
            v, images, use_running_average=False, mutable=["batch_stats"]
        )
    )(variables)
    before, after = variables["batch_stats"], after["batch_stats"]
    jax.tree.map(np.testing.assert_array_equal, after["backbone"], before["backbone"])
    moved = jax.tree.map(lambda a, b: (a != b).any(), after["head"], before["head"])
    assert all(jax.tree.leaves(moved))


def test_channel_dropout_of_deeplab_v3_plus():
    model = deeplab_v3_plus.Model(
        3, **{**_SMALL, "blocks": (1, 1, 1, 1)}, head_channels=64, dropout=0.5
    )
    images = jax.random.normal(jax.random.key(0), (2, 33, 33, 3))
    variables = drawn.variables(model.init, images)

    @functools.partial(jax.jit, static_argnums=0)
    def features(off):
        rngs = {"dropout": jax.random.key(2)}
        output = model.apply(variables, images, deterministic=off, rngs=rngs)
        return output.features

    kept, dropped = features(True), features(False)
    gone = (dropped == 0).all((1, 2)) & (kept != 0).any((1, 2))
    assert 0.2 < gone.mean() < 0.8 and (gone[0] != gone[1]).any()
    np.testing.assert_allclose(
        dropped, jnp.where(gone[:, None, None], 0.0, 2 * kept), rtol=1e-5
    )


def test_scores_of_the_discriminator():
    network = discriminator.Model(5, width=2)
    probs = jnp.full((2, 64, 96, 5), 0.2)
    variables = drawn.variables(network.init, probs)
    assert jax.jit(network.apply)(variables, probs).shape == (2, 2, 3, 1)
    kernels = [layer["kernel"].shape for layer in variables["params"].values()]
    channels = [(3, 3, 5, 2), (4, 4, 2, 4), (4, 4, 4, 8), (4, 4, 8, 16), (4, 4, 16, 1)]
    assert sorted(kernels) == sorted(channels)
    half = jax.jit(network.clone(dtype="bfloat16").apply)(variables, probs)
    assert half.dtype == jnp.float32


def test_first_values_of_the_discriminator():
    params = init_state(discriminator.Model(5, width=2), jax.random.key(0)).params
    bound = 1 / np.sqrt(4 * 4 * 16)
    for leaf in params["classifier"].values():
        assert (jnp.abs(leaf) <= bound).all()
    assert jnp.abs(params["classifier"]["kernel"]).max() > 0.8 * bound


def test_visits_of_the_published_optimiser():
    assert sgd_visits(("backbone", "conv1", "kernel")) == 1
    assert sgd_visits(("backbone", "layer1_0", "downsample_conv", "kernel")) == 4
    assert sgd_visits(("backbone", "layer4_2", "conv3", "kernel")) == 3
    assert sgd_visits(("head", "branch1", "bias")) == 1
