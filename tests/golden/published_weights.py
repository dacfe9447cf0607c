"""Variables of a module from arrays with published names, and back."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from sfda_jax.weights.layout import to_ours, to_published


def nhwc(x, dtype=jnp.float32):
    return jnp.asarray(x, dtype).transpose(0, 2, 3, 1)


def nchw(x):
    return np.asarray(x).transpose(0, 3, 1, 2)


def relmax(found, expected):
    """Largest difference, relative to the largest value expected."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    return np.abs(found - expected).max() / np.abs(expected).max()


def fill(init, layout, weight, *, place=(), prefix=""):
    """Variables as `init` makes them, with published arrays.

    Args:
        init: makes variables without arguments; only their shapes count.
        layout: module of published names.
        weight: `weight(name, shape)` → the published array.
        place: path of the module in the whole network.
        prefix: of the published names, dropped before `weight` is asked.
    """
    variables = {}
    for path, leaf in traverse_util.flatten_dict(jax.eval_shape(init)).items():
        name = _name(layout, place, path, prefix)
        blank = np.broadcast_to(np.float32(0), leaf.shape)
        shape = to_published(layout, path, blank).shape
        array = np.asarray(weight(name, shape))
        assert array.shape == shape, (name, array.shape, shape)
        variables[path] = jnp.asarray(to_ours(layout, path, array))
    return traverse_util.unflatten_dict(variables)


def published(variables, layout, *, place=(), prefix=""):
    """Published name → array, of variables with their collections."""
    found = {}
    for path, leaf in traverse_util.flatten_dict(variables).items():
        array = to_published(layout, path, np.asarray(leaf))
        found[_name(layout, place, path, prefix)] = array
    return found


def stored(case, prefix):
    """`weight` of `fill`, for arrays stored as `<prefix><name>` in the case."""
    return lambda name, shape: case[prefix + name]


def _name(layout, place, path, prefix):
    _, name = layout.published_name((*place, *path[1:]))
    assert name.startswith(prefix), name
    return name.removeprefix(prefix)
