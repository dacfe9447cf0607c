"""Rows of features on a process's devices, and exact sums over all of them.

Statistics of k-means and EM are sums over rows. Each is made chunk by chunk on the
device that holds the rows, then over the devices, then over the processes: no
intermediate is larger than a chunk, and the result is that of all rows at once up to
the order of summation.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int, Num, PyTree

from sfda_jax.ops import processes
from sfda_jax.ops.collectives import psum
from sfda_jax.pseudo_labels.selector import Total

CHUNK = 2048
"""Rows reckoned at a time: with 256 features they and their squares fit a cache."""

_AXIS = "rows"


@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows `[n,D]` of this process, placed by `place_rows`; others may hold more.

    Attributes:
        local: this process's rows on the host, as given.
        count: rows of all processes.
        values: the rows on the devices `[devices*capacity,D]`, zeros behind the last.
        weights: 1 for rows, 0 for what fills up.
        chunk: rows reckoned at a time.
        used: chunks of every device that hold rows.
        mesh: of this process's devices.
        total: sum over processes.
    """

    local: Float[np.ndarray, "n d"]
    count: int
    values: Float[Array, "r d"]
    weights: Float[Array, " r"]
    chunk: int
    used: int
    mesh: Mesh
    total: Total

    def sum(self, fn: Callable[..., PyTree], *arguments: PyTree) -> PyTree:
        """The sum of `fn(x[c,D], weights[c], *arguments)` over all rows, on the host.

        Args:
            fn: a function of a module (it is compiled once), linear in the weights:
                rows of weight 0 change nothing.
            *arguments: the same for all chunks and on all processes.
        """
        sums = _summed(
            self.values,
            self.weights,
            np.int32(self.used),
            arguments,
            fn=fn,
            mesh=self.mesh,
            chunk=self.chunk,
        )
        return jax.tree.map(lambda leaf: self.total(np.asarray(leaf)), sums)

    def map(self, fn: Callable[..., PyTree], *arguments: PyTree) -> PyTree:
        """What `fn(x[c,D], *arguments)` gives for each row of this process."""
        found = _mapped(self.values, arguments, fn=fn, mesh=self.mesh, chunk=self.chunk)
        devices = self.mesh.size
        each = -(-len(self.local) // devices)

        def unpadded(leaf):
            leaf = np.asarray(leaf).reshape(devices, -1, *leaf.shape[1:])[:, :each]
            return leaf.reshape(-1, *leaf.shape[2:])[: len(self.local)]

        return jax.tree.map(unpadded, found)

    def per_process(self, value: Num[np.ndarray, "..."]) -> Num[np.ndarray, "p ..."]:
        """Every process's array."""
        value = np.asarray(value)
        each = np.zeros((jax.process_count(), *value.shape), value.dtype)
        each[jax.process_index()] = value
        return self.total(each)

    def take(self, places: Int[np.ndarray, "..."]) -> Float[np.ndarray, "... d"]:
        """Rows by their place among the rows of all processes, one after the other."""
        counts = self.per_process(np.array(len(self.local)))
        inside = places - counts[: jax.process_index()].sum()
        own = (inside >= 0) & (inside < len(self.local))
        found = np.zeros((*places.shape, self.local.shape[1]), self.local.dtype)
        found[own] = self.local[inside[own]]
        return self.total(found)

    @functools.cached_property
    def mean(self) -> Float[np.ndarray, " d"]:
        """Of all rows."""
        return self.sum(_row_sums) / self.local.dtype.type(self.count)


def place_rows(
    x: Float[np.ndarray, "n d"],
    *,
    capacity: int = 0,
    chunk: int = CHUNK,
    devices: Sequence[jax.Device] | None = None,
    total: Total = processes.total,
) -> Rows:
    """Rows of this process, spread over its devices.

    Args:
        x: float32, or float64 where JAX is allowed it; none is fine.
        capacity: rows to make room for, at least `n`: what is compiled for one set of
            rows serves every other of the same capacity.
        chunk: rows reckoned at a time.
        devices: of this process; all by default.
        total: sum over processes; every process has to place rows at the same time.
    """
    devices = jax.local_devices() if devices is None else list(devices)
    mesh = Mesh(np.array(devices), (_AXIS,), axis_types=(AxisType.Auto,))
    each = -(-len(x) // len(devices))
    room = max(-(-max(capacity, len(x)) // len(devices)), 1)
    chunk = min(chunk, room)
    room = -(-room // chunk) * chunk

    def device_rows(index):
        """One device's rows, then zeros."""
        first = (index[0].start or 0) // room * each
        own = x[first : min(first + each, len(x))]
        if len(own) == room:
            return own
        filled = np.zeros((room, x.shape[1]), x.dtype)
        filled[: len(own)] = own
        return filled

    def device_weights(index):
        first = (index[0].start or 0) // room * each
        return (first + np.arange(room) < min(first + each, len(x))).astype(x.dtype)

    sharding = NamedSharding(mesh, P(_AXIS))
    size = len(devices) * room
    place = jax.make_array_from_callback
    return Rows(
        local=x,
        count=int(total(np.array(len(x)))),
        values=place((size, x.shape[1]), sharding, device_rows),
        weights=place((size,), sharding, device_weights),
        chunk=chunk,
        used=math.ceil(each / chunk),
        mesh=mesh,
        total=total,
    )


def _row_sums(x: Float[Array, "c d"], weights: Float[Array, " c"]) -> Array:
    return jnp.dot(weights, x, precision=jax.lax.Precision.HIGHEST)


@functools.partial(jax.jit, static_argnames=("fn", "mesh", "chunk"))
def _summed(values, weights, used, arguments, *, fn, mesh, chunk) -> PyTree:
    def local(values, weights, used, arguments):
        def chunk_sums(index):
            part = (jax.lax.dynamic_slice_in_dim(a, index * chunk, chunk) for a in rows)
            return fn(*part, *arguments)

        rows = (values, weights)
        nothing = jax.tree.map(
            lambda leaf: jax.lax.pcast(
                jnp.zeros(leaf.shape, leaf.dtype), _AXIS, to="varying"
            ),
            jax.eval_shape(chunk_sums, jnp.int32(0)),
        )

        def add(index, sums):
            return jax.tree.map(jnp.add, sums, chunk_sums(index))

        # as many chunks as hold rows: room for more costs memory, not time
        return psum(jax.lax.fori_loop(0, used, add, nothing), _AXIS)

    spread = jax.shard_map(
        local, mesh=mesh, in_specs=(P(_AXIS), P(_AXIS), P(), P()), out_specs=P()
    )
    return spread(values, weights, used, arguments)


@functools.partial(jax.jit, static_argnames=("fn", "mesh", "chunk"))
def _mapped(values, arguments, *, fn, mesh, chunk) -> PyTree:
    def local(values, arguments):
        def chunk_results(x) -> Any:
            return fn(x, *arguments)

        parts = values.reshape(-1, chunk, values.shape[1])
        found = jax.lax.map(chunk_results, parts)
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), found)

    spread = jax.shard_map(
        local, mesh=mesh, in_specs=(P(_AXIS), P()), out_specs=P(_AXIS)
    )
    return spread(values, arguments)
