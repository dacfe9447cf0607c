"""Variables drawn by NumPy: compiling the initialisers takes far longer."""

import jax
import jax.numpy as jnp
import numpy as np


def variables(init, *args, **kwargs):
    """What `init(key, *args, **kwargs)` makes, with other numbers."""
    shapes = jax.eval_shape(lambda: init(jax.random.key(0), *args, **kwargs))
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        if path[-1].key in ("scale", "var"):
            return jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), jnp.float32)
        fan_in = np.prod(leaf.shape[:-1], dtype=int)
        return jnp.asarray(rng.normal(size=leaf.shape) / np.sqrt(fan_in), jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)
