"""Compile time, step time and memory of the published networks, one after another."""

import logging
import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from sfda_jax.registry import check_choice
from sfda_jax.train.memory import host_peak_gib
from sfda_jax.weights.layout import init_state
from sfda_jax.weights.networks import NETWORKS

_log = logging.getLogger(__name__)

_LINE = (
    "%(network)s, %(pass)s: compiled in %(compile_seconds)s s, step %(step_median)s s, "
    "peak memory %(host_peak_gib)s GiB (temporary buffers %(temporary_gib)s GiB)."
)


def bench_networks(
    names: Sequence[str] = (),
    *,
    size: tuple[int, int] = (512, 512),
    num_steps: int = 2,
    settings: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Two rows per network: forward, and forward with backward.

    Every row is measured in a process of its own, so that its peak memory is its own.

    Args:
        names: of `weights.networks.NETWORKS`; empty for all.
        size: (height, width) of the one image.
        num_steps: timed steps (after one that is not).
        settings: attributes of the networks, e.g. `dtype`, `remat`, `scan_blocks`.

    Returns:
        Rows of: network, pass, compile_seconds, step_median (seconds), host_peak_gib
        (of the process), temporary_gib (as the compiler counts it).

    Raises:
        ConfigError: unknown network.
    """
    for name in names:
        check_choice("network", name, list(NETWORKS))
    spawn = multiprocessing.get_context("spawn")
    rows = []
    for name in names or NETWORKS:
        for backward in (False, True):
            with spawn.Pool(1) as pool:
                arguments = (name, backward, size, num_steps, dict(settings or {}))
                rows.append(pool.apply(_measure, arguments))
            _log.info(_LINE, rows[-1])
    return rows


def _measure(
    name: str,
    backward: bool,
    size: tuple[int, int],
    num_steps: int,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    model = NETWORKS[name].build(**settings)
    state = init_state(model, jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (1, *size, 3))
    labels = jnp.zeros((1, *size), jnp.int32)
    began = time.perf_counter()
    function = _backward(model) if backward else _forward(model)
    step = jax.jit(function).lower(state, images, labels).compile()
    compiled = time.perf_counter() - began
    seconds = [_timed(step, state, images, labels) for _ in range(num_steps + 1)][1:]
    memory = step.memory_analysis()
    return {
        "network": name,
        "pass": "forward+backward" if backward else "forward",
        "compile_seconds": round(compiled, 1),
        "step_median": round(statistics.median(seconds), 2),
        "host_peak_gib": host_peak_gib(),
        "temporary_gib": round(memory.temp_size_in_bytes / 2**30, 2),
    }


def _timed(step: Callable, *arguments: Any) -> float:
    began = time.perf_counter()
    jax.block_until_ready(step(*arguments))
    return time.perf_counter() - began


def _forward(model):
    def forward(state, images, labels):
        return _apply(model, state.params, state, images).logits

    return forward


def _backward(model):
    """The gradient of a cross-entropy at the network's stride."""

    def loss(params, state, images, labels):
        logits = _apply(model, params, state, images).logits
        rows, columns = logits.shape[1:3]
        small = labels[:, :rows, :columns]
        return optax.softmax_cross_entropy_with_integer_labels(logits, small).mean()

    def backward(state, images, labels):
        return jax.grad(loss)(state.params, state, images, labels)

    return backward


def _apply(model, params, state, images):
    variables = {"params": params, "batch_stats": state.batch_stats}
    return model.apply(variables, images, deterministic=True, use_running_average=True)
