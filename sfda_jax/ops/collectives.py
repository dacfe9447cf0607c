"""The few collectives of a step, each the identity where no axis is named.

Under `jit` on a mesh the batch is global and no axis is named; under `pmap` every
device holds a shard and `axis_name` joins them. Code written with these gives the
same numbers both ways.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree


def psum(tree: PyTree, axis_name: str | None) -> PyTree:
    """Sum over devices."""
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)


def pmean(tree: PyTree, axis_name: str | None) -> PyTree:
    """Mean over devices (equal shards)."""
    return tree if axis_name is None else jax.lax.pmean(tree, axis_name)


def device_share(value: Array, axis_name: str | None) -> Array:
    """This device's share of a value that devices agree on, or of their average."""
    devices = 1 if axis_name is None else jax.lax.axis_size(axis_name)
    return value.astype(jnp.float32) / devices


def gather_batch(x: Array, axis_name: str | None) -> Array:
    """The global batch `[devices*b, ...]` from this device's `[b, ...]`."""
    if axis_name is None:
        return x
    return jax.lax.all_gather(x, axis_name, axis=0, tiled=True)


def local_shard(x: Array, axis_name: str | None) -> Array:
    """This device's `[b, ...]` of a global batch `[devices*b, ...]`."""
    if axis_name is None:
        return x
    size = x.shape[0] // jax.lax.axis_size(axis_name)
    return jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(axis_name) * size, size)


def batch_places(size: int, axis_name: str | None) -> Int[Array, " {size}"]:
    """Each image's place in the global batch, of the `size` images on this device."""
    places = jnp.arange(size)
    if axis_name is None:
        return places
    return places + size * jax.lax.axis_index(axis_name)
