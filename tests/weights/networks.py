"""Small networks with random weights for the tests of checkpoints."""

import jax
import jax.numpy as jnp
import numpy as np

from sfda_jax.models import deeplab_v2, deeplab_v2_vgg
from sfda_jax.weights.layout import abstract_state

SIZES = {"stem_channels": 2, "planes": (1, 1, 2, 2), "blocks": (1, 2, 1, 1)}
DEEPLAB = deeplab_v2.Model(num_classes=3, **SIZES)
VGG = deeplab_v2_vgg.Model(
    num_classes=3, planes=(2, 2, 3, 3, 3), blocks=(1, 2, 1, 1, 1), fc_planes=4
)


def random_state(model, seed=0):
    """Variables drawn by NumPy; variances positive, so that outputs stay finite."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        values = rng.normal(size=leaf.shape)
        if path[-1].key == "var":
            values = 0.5 + np.abs(values)
        return jnp.asarray(values, jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, abstract_state(model))


def assert_equal(a, b):
    """Same tree, same values."""
    jax.tree.map(np.testing.assert_array_equal, a, b)
