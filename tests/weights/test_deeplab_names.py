import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sfda_jax.errors import CheckpointError
from sfda_jax.models import deeplab_v2, deeplab_v3_plus, discriminator
from sfda_jax.weights.convert import to_flax, to_torch
from sfda_jax.weights.layout import abstract_state
from sfda_jax.weights.layouts import deeplab_v2 as deeplab_v2_names
from sfda_jax.weights.layouts import deeplab_v2_atp as deeplab_v2_atp_names
from sfda_jax.weights.layouts import deeplab_v2_crst as deeplab_v2_crst_names
from sfda_jax.weights.layouts import deeplab_v2_iast as deeplab_v2_iast_names
from sfda_jax.weights.layouts import deeplab_v3_plus as deeplab_v3_plus_names
from sfda_jax.weights.layouts import discriminator as discriminator_names
from sfda_jax.weights.layouts import torchvision_resnet

_SMALL = {"stem_channels": 4, "planes": (1, 2, 3, 2), "blocks": (1, 1, 2, 1)}


def _deeplab_v2(variant):
    return deeplab_v2.Model(3, **_SMALL, **deeplab_v2.PUBLISHED[variant])


_CASES = {
    "deeplab_v2": _deeplab_v2("stable_st"),
    "deeplab_v2_crst": _deeplab_v2("crst"),
    "deeplab_v2_iast": _deeplab_v2("iast"),
    "deeplab_v2_atp": _deeplab_v2("atp"),
    "deeplab_v3_plus": deeplab_v3_plus.Model(
        3, **_SMALL, head_channels=4, low_channels=2
    ),
    "discriminator": discriminator.Model(3, width=2),
}


@pytest.mark.parametrize("layout", _CASES)
def test_there_and_back_bit_for_bit(layout):
    model = _CASES[layout]
    rng = np.random.default_rng(0)
    state = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32),
        abstract_state(model),
    )
    published = to_torch(state, model, layout)
    assert sum(map(len, published.values())) == len(jax.tree.leaves(state))
    tree = published[""] if set(published) == {""} else published
    jax.tree.map(
        np.testing.assert_array_equal, to_flax(tree, model, layout=layout), state
    )


def test_examples():
    assert doctest.testmod(torchvision_resnet).failed == 0


@pytest.mark.parametrize(
    ("layout", "path", "name"),
    [
        (
            deeplab_v2_names,
            "backbone/layer2_0/downsample_bn/mean",
            "backbone.layer2.0.downsample.1.running_mean",
        ),
        (deeplab_v2_crst_names, "head/branch3/bias", "layer5.conv2d_list.3.bias"),
        (deeplab_v2_crst_names, "backbone/conv1/kernel", "conv1.weight"),
        (
            deeplab_v2_iast_names,
            "head/branch1/kernel",
            "decoder.aspp.conv2d_list.1.weight",
        ),
        (deeplab_v2_atp_names, "backbone/bn2/scale", "backbone.stem.4.weight"),
        (
            deeplab_v2_atp_names,
            "backbone/layer1_0/bn2/var",
            "backbone.layer1.0.bn2.running_var",
        ),
        (
            deeplab_v3_plus_names,
            "head/fuse/aspp/branch2/conv/kernel",
            "aspp.aspp3.atrous_conv.weight",
        ),
        (deeplab_v3_plus_names, "head/classifier/bias", "decoder.last_conv.7.bias"),
        (
            discriminator_names,
            "classifier/kernel",
            "discriminators.Origin-Predictor.classifier.weight",
        ),
    ],
)
def test_names(layout, path, name):
    assert layout.published_name(tuple(path.split("/")))[1] == name


@pytest.mark.parametrize(
    "layout",
    [
        deeplab_v2_names,
        deeplab_v2_crst_names,
        deeplab_v2_iast_names,
        deeplab_v2_atp_names,
        deeplab_v3_plus_names,
    ],
)
def test_foreign_parts_are_refused(layout):
    with pytest.raises(CheckpointError, match="tail/conv/kernel"):
        layout.published_name(("tail", "conv", "kernel"))
