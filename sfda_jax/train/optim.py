"""Optimisers and learning-rate schedules, equal to their PyTorch namesakes."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from sfda_jax.registry import check_choice

Schedule = Callable[[Int[Array, "*n"]], Float[Array, "*n"]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """How parameters are updated; the defaults are DT-ST's published ones.

    Attributes:
        name: `sgd`, `adam` (weight decay added to the gradient, as in PyTorch) or
            `adamw` (decoupled).
        learning_rate: of the backbone, at the first step.
        schedule: `poly` (1 - t/max_steps)^power, `cosine` to 0, or `constant`.
        max_steps: where the schedule ends; a stage may stop earlier.
        power: of `poly`.
        warmup_steps: the rate first rises linearly over so many steps; 0 = none.
        momentum: of SGD.
        beta1: decay of Adam's first moment.
        beta2: decay of Adam's second moment.
        weight_decay: on every parameter, biases too.
        head_multiplier: learning rate of the parameters under `head`, relative.
        clip_norm: largest global gradient norm; 0 = no clipping.
    """

    name: str = "sgd"
    learning_rate: float = 2.5e-4
    schedule: str = "poly"
    max_steps: int = 62500
    power: float = 0.9
    warmup_steps: int = 0
    momentum: float = 0.9
    beta1: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 5e-4
    head_multiplier: float = 10.0
    clip_norm: float = 0.0

    def __post_init__(self):
        check_choice("optimizer.name", self.name, ("sgd", "adam", "adamw"))
        schedules = ("poly", "cosine", "constant")
        check_choice("optimizer.schedule", self.schedule, schedules)


class ScheduleState(NamedTuple):
    """Steps taken, and the learning rate of the last one (what a log shows)."""

    count: Int[Array, ""]
    learning_rate: Float[Array, ""]


def make_schedule(settings: OptimizerSettings) -> Schedule:
    """The learning rate at 0-based step t, as a function of an integer array.

    `poly` is computed as ((T - t) / T)^p: T - t is exact, whereas 1 - t/T would lose
    three digits of float32 near the end.
    """

    def schedule(step: Int[Array, "*n"]) -> Float[Array, "*n"]:
        total = jnp.float32(settings.max_steps)
        left = jnp.maximum(settings.max_steps - step, 0).astype(jnp.float32) / total
        if settings.schedule == "poly":
            factor = left**settings.power
        elif settings.schedule == "cosine":
            factor = 0.5 * (1 - jnp.cos(jnp.pi * left))
        else:
            factor = jnp.ones_like(left)
        if settings.warmup_steps:
            done = (step + 1).astype(jnp.float32) / settings.warmup_steps
            factor = factor * jnp.minimum(done, 1)
        return settings.learning_rate * factor

    return schedule


def make_optimizer(settings: OptimizerSettings) -> optax.GradientTransformation:
    """The update rule: clip, decay, momentum, group factor, scheduled rate."""
    decay = optax.add_decayed_weights(settings.weight_decay)
    adam = _promoting(optax.scale_by_adam(b1=settings.beta1, b2=settings.beta2))
    core = {
        "sgd": (decay, optax.trace(settings.momentum)),
        "adam": (decay, adam),
        "adamw": (adam, decay),
    }[settings.name]
    clip = optax.clip_by_global_norm(settings.clip_norm)
    return optax.chain(
        *([clip] if settings.clip_norm else []),
        *core,
        optax.stateless(lambda updates, params: _scale_head(updates, settings)),
        _scale_by_rate(make_schedule(settings)),
    )


def _promoting(
    inner: optax.GradientTransformation,
) -> optax.GradientTransformation:
    """`inner` where floats may meet integers: optax raises a decay to the step."""

    def update(updates, state, params=None):
        with jax.numpy_dtype_promotion("standard"):
            return inner.update(updates, state, params)

    return optax.GradientTransformation(inner.init, update)


def _scale_head(updates: PyTree, settings: OptimizerSettings) -> PyTree:
    if "head" not in updates:
        return updates
    head = jax.tree.map(lambda u: u * settings.head_multiplier, updates["head"])
    return {**updates, "head": head}


def _scale_by_rate(schedule: Schedule) -> optax.GradientTransformation:
    def init(params):
        del params
        zero = jnp.zeros((), jnp.int32)
        return ScheduleState(zero, schedule(zero))

    def update(updates, state, params=None):
        del params
        rate = schedule(state.count)
        updates = jax.tree.map(lambda u: -rate.astype(u.dtype) * u, updates)
        return updates, ScheduleState(state.count + 1, rate)

    return optax.GradientTransformation(init, update)
