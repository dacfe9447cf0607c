from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from sfda_jax.models.forward import forward, network_input
from sfda_jax.ops.color import normalize
from sfda_jax.types import ModelState, SegOutput


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
