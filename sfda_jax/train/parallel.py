"""The one place that compiles: the same pure step as `jit` on a mesh or as `pmap`."""

import dataclasses
import math
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import PyTree

from sfda_jax.errors import ConfigError
from sfda_jax.methods.base import MethodBase
from sfda_jax.types import AdaptState, Batch

AXIS = "data"


@dataclasses.dataclass(frozen=True)
class Parallel:
    """Devices and the way a step runs on them.

    Attributes:
        mode: `jit` (batch sharded over the mesh, everything else replicated) or
            `pmap` (one program per device, joined by collectives).
        mesh: one axis, `data`.
    """

    mode: str
    mesh: Mesh

    @property
    def replicated(self) -> NamedSharding:
        """The same array on every device."""
        return NamedSharding(self.mesh, P())

    @property
    def sharded(self) -> NamedSharding:
        """The batch axis spread over the devices."""
        return NamedSharding(self.mesh, P(AXIS))

    @property
    def num_devices(self) -> int:
        """Over all processes."""
        return self.mesh.size

    def localise(self, method: MethodBase) -> MethodBase:
        """The method as one device runs it: its axis is named under `pmap`."""
        if self.mode == "jit":
            return method
        model = method.model.clone(axis_name=AXIS)
        return dataclasses.replace(method, model=model, axis_name=AXIS)

    def compile_step(self, step: Callable) -> Callable:
        """The compiled `step(state, batch, key)`; the state's buffers are donated."""
        if self.mode == "jit":
            rep = self.replicated
            return jax.jit(
                step,
                in_shardings=(rep, self.sharded, rep),
                out_shardings=(rep, rep),
                donate_argnums=0,
            )
        return self._pmap(step, (0, 0, None))

    def compile_halves(
        self, annotate: Callable, update: Callable
    ) -> tuple[Callable, Callable]:
        """The compiled halves of a step that looks something up in the middle.

        Returns:
            `(state, batch, key)` → state, targets, queries, step number; and `(state,
            batch, targets, key)` → state, metrics. Queries and number are for
            `get_metrics`.
        """

        def asking(state, batch, key):
            state, targets = annotate(state, batch, key)
            return state, targets.replace(queries=None), targets.queries, state.step

        if self.mode == "pmap":
            return self._pmap(asking, (0, 0, None)), self._pmap(update, (0, 0, 0, None))
        rep, split = self.replicated, self.sharded
        return (
            jax.jit(
                asking,
                in_shardings=(rep, split, rep),
                out_shardings=(rep, None, rep, rep),
                donate_argnums=0,
            ),
            jax.jit(
                update,
                in_shardings=(rep, split, None, rep),
                out_shardings=(rep, rep),
                donate_argnums=0,
            ),
        )

    def _pmap(self, fn: Callable, in_axes: tuple[int | None, ...]) -> Callable:
        return jax.pmap(
            fn,
            axis_name=AXIS,
            in_axes=in_axes,
            devices=list(self.mesh.devices.flat),
            donate_argnums=0,
        )

    def compile_forward(
        self, fn: Callable, variables: PyTree, *, rows: int, shared: bool
    ) -> tuple[Callable, PyTree]:
        """The compiled `fn(variables, images)` (any mode), and its variables placed.

        Args:
            fn: results have the batch axis first, and come to every device.
            variables: any pytree.
            rows: images per call; as many devices as divide them share the work, the
                others repeat it.
            shared: every process calls it on images of its own, alone; otherwise all
                call it together, on the same images.
        """
        devices = self.mesh.devices.flatten()
        if shared and jax.process_count() > 1:
            here = jax.process_index()
            devices = np.array([d for d in devices if d.process_index == here])
            variables = jax.device_get(variables)
        parts = math.gcd(rows, devices.size)
        mesh = Mesh(
            devices.reshape(parts, -1), (AXIS, "copy"), axis_types=(AxisType.Auto,) * 2
        )
        everywhere = NamedSharding(mesh, P())
        compiled = jax.jit(
            fn,
            in_shardings=(everywhere, NamedSharding(mesh, P(AXIS))),
            out_shardings=everywhere,
        )
        return compiled, jax.device_put(variables, everywhere)

    def put_state(self, state: AdaptState) -> AdaptState:
        """The state on all devices, as the compiled step takes it."""
        if self.mode == "jit":
            return jax.device_put(state, self.replicated)
        stacked = jax.tree.map(
            lambda x: np.broadcast_to(np.asarray(x), (self.num_devices, *np.shape(x))),
            state,
        )
        return jax.device_put(stacked, self.sharded)

    def get_state(self, state: AdaptState) -> AdaptState:
        """The plain state of a state that the compiled step returned."""
        return state if self.mode == "jit" else jax.tree.map(lambda x: x[0], state)

    def get_metrics(self, metrics: PyTree) -> PyTree:
        """On the host, what every device has the same of: scalars, queries."""
        host = jax.device_get(metrics)
        return host if self.mode == "jit" else jax.tree.map(lambda x: x[0], host)

    def put_batch(self, batch: Batch) -> Batch:
        """This process's part of a batch, put on its devices."""
        put = self._split if self.mode == "pmap" else self._place
        return jax.tree.map(put, batch)

    def local_rows(self, size: int) -> slice:
        """This process's rows of a global batch of `size`."""
        part = size // jax.process_count()
        return slice(jax.process_index() * part, (jax.process_index() + 1) * part)

    def _place(self, x: np.ndarray) -> jax.Array:
        return jax.make_array_from_process_local_data(self.sharded, x)

    def _split(self, x: np.ndarray) -> np.ndarray:
        local = jax.local_device_count() if self.num_devices > 1 else 1
        local = min(local, self.num_devices)
        return x.reshape(local, x.shape[0] // local, *x.shape[1:])

    def check_batch(self, size: int, where: str) -> None:
        """Refuses a batch that does not divide over the devices.

        Raises:
            ConfigError: names the setting and the nearest sizes that fit.
        """
        n = self.num_devices
        if size % n:
            low = max(size // n, 1) * n
            raise ConfigError(
                f"config.{where} is {size}, not divisible by {n} devices.",
                hint=f"Use {low} or {low + n}, or --config.parallel.devices=1.",
            )


def make_parallel(mode: str, num_devices: int = 0) -> Parallel:
    """The devices of a run.

    Args:
        mode: `jit` or `pmap`.
        num_devices: how many to use, 0 for all.

    Raises:
        ConfigError: more devices asked for than there are.
    """
    devices = jax.devices()
    if num_devices > len(devices):
        raise ConfigError(
            f"config.parallel.devices is {num_devices}, but JAX sees {len(devices)} "
            f"({devices[0].platform}).",
            hint="Lower it, or set 0 for all.",
        )
    devices = devices[: num_devices or len(devices)]
    mesh = jax.make_mesh(
        (len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices
    )
    return Parallel(mode, mesh)
