from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from sfda_jax.models import deeplab_v2, tiny
from sfda_jax.models.forward import forward, head_logits, network_input
from sfda_jax.ops.color import normalize
from sfda_jax.types import ModelState, SegOutput
from tests.models.drawn import variables


class _Echo(nn.Module):
    """Returns what it is given."""

    normalization: ClassVar[str] = "unit"

    def __call__(self, images, *, deterministic, use_running_average):
        return SegOutput(logits=images, features=images)


class _Silent(nn.Module):
    """Says nothing about its input."""


def test_images_are_normalised_as_the_network_says():
    images = jnp.asarray([[[[0, 51, 255]]]], jnp.uint8)
    output, statistics = forward(
        _Echo(), ModelState(params={}, batch_stats={}), images, statistics="running"
    )
    np.testing.assert_allclose(output.logits.ravel(), [0, 0.2, 1], rtol=1e-6)
    assert statistics == {}
    plain = network_input(_Silent(), images)
    np.testing.assert_array_equal(plain, normalize(images))


def test_normalised_images_pass_unchanged():
    images = jax.random.normal(jax.random.key(0), (1, 2, 2, 3))
    assert network_input(_Echo(), images) is images
    assert images.dtype == jnp.float32


@pytest.mark.parametrize(
    "model",
    [
        tiny.Model(num_classes=5, width=4, block_dilations=(2,)),
        deeplab_v2.Model(
            num_classes=5, stem_channels=4, planes=(1, 2, 2, 3), blocks=(1, 1, 1, 1)
        ),
    ],
    ids=lambda model: type(model).__module__.rpartition(".")[2],
)
def test_head_alone_gives_the_network_its_logits(model):
    images = jax.random.normal(jax.random.key(1), (2, 32, 48, 3))
    network = ModelState(**variables(model.init, images))
    output, _ = jax.jit(
        lambda network: forward(model, network, images, statistics="running")
    )(network)
    head = network.params["head"]
    logits = head_logits(model, head, output.features)
    np.testing.assert_allclose(logits, output.logits, rtol=1e-5, atol=1e-6)
    moved = jax.tree.map(lambda x: 2 * x, head)
    np.testing.assert_allclose(
        head_logits(model, moved, output.features), 2 * logits, rtol=1e-5, atol=1e-6
    )
