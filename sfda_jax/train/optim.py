"""Optimisers and learning-rate schedules, equal to their published namesakes."""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from sfda_jax.errors import ConfigError
from sfda_jax.ops import schedules
from sfda_jax.registry import check_choice
from sfda_jax.train.leaf_rules import (
    GROUPS,
    LeafRule,
    check_patterns,
    leaf_rule,
    map_with_rules,
)
from sfda_jax.train.repeated_sgd import repeated_sgd

Schedule = Callable[..., schedules.Rates]
"""Learning rate by step, and by a group's factor; see `make_schedule`."""

_CHOICES = {
    "name": ("sgd", "mxnet_sgd", "adam", "adamw"),
    "schedule": ("poly", "warm_poly", "cosine", "cosine_restart", "constant"),
    "groups": GROUPS,
    "visits": ("once", "published", "modern"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """How parameters are updated; the defaults are DT-ST's published ones.

    Attributes:
        name: `sgd`, `mxnet_sgd` (the learning rate inside the momentum buffer), `adam`
            (weight decay added to the gradient, as in PyTorch) or `adamw` (decoupled).
        learning_rate: of the backbone, at the first step.
        schedule: `poly` (1 - t/max_steps)^power, `warm_poly` (BiSMAP's: from 0 over
            `warmup_steps`, then poly down to `end_rate`), `cosine` to 0,
            `cosine_restart` (half cosines to `end_rate`, one after the other) or
            `constant`.
        max_steps: where `poly` and `cosine` end; a stage may stop earlier.
        power: of `poly`; 1 is linear, 0 constant.
        end_rate: the least rate. Of `poly` it belongs to groups of factor 1; at the
            end of `warm_poly` and of a restarted cosine all groups share it.
        restart_steps: length of the first half cosine of `cosine_restart`.
        restart_factor: how much longer every following one is.
        warmup_steps: the rate first rises linearly over so many steps; 0 = none. Step
            t has (t + 1) parts of it, in `warm_poly` t.
        momentum: of SGD.
        beta1: decay of Adam's first moment.
        beta2: decay of Adam's second moment.
        weight_decay: on every parameter that its group decays.
        groups: `head` (parameters under `head` have another rate), `cbst` (biases have
            twice the rate and no decay) or `mmseg` (all but the backbone have another
            rate, LayerNorm no decay).
        head_multiplier: rate of the head in the groups `head` and `mmseg`, relative.
        freeze: patterns of parameters that stay as they are, `*/bn?/*` for instance.
        visits: updates of a parameter per step of `sgd`: `once`, or as often as CRST's
            optimiser lists it, in the `published` order or that of a `modern` PyTorch.
        clip_norm: largest global gradient norm; 0 = no clipping.

    Raises:
        ConfigError: an unknown name, or settings that exclude each other.
    """

    name: str = "sgd"
    learning_rate: float = 2.5e-4
    schedule: str = "poly"
    max_steps: int = 62500
    power: float = 0.9
    end_rate: float = 0.0
    restart_steps: int = 0
    restart_factor: float = 1.0
    warmup_steps: int = 0
    momentum: float = 0.9
    beta1: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 5e-4
    groups: str = "head"
    head_multiplier: float = 10.0
    freeze: tuple[str, ...] = ()
    visits: str = "once"
    clip_norm: float = 0.0

    def __post_init__(self):
        for name, known in _CHOICES.items():
            check_choice(f"optimizer.{name}", getattr(self, name), known)
        if self.visits != "once" and self.name != "sgd":
            raise ConfigError(
                f"optimizer.visits is {self.visits!r} with the name {self.name!r}.",
                hint="Repeated visits belong to 'sgd'.",
            )
        if self.schedule == "warm_poly" and self.warmup_steps >= self.max_steps:
            raise ConfigError(
                f"optimizer.warmup_steps is {self.warmup_steps} of max_steps "
                f"{self.max_steps}.",
                hint="'warm_poly' counts the warm-up among max_steps.",
            )
        restarts = self.schedule == "cosine_restart"
        if restarts and (self.restart_steps < 1 or self.restart_factor < 1):
            raise ConfigError(
                f"optimizer.restart_steps is {self.restart_steps} and restart_factor "
                f"{self.restart_factor:g}.",
                hint="'cosine_restart' needs both to be 1 or more.",
            )


class ScheduleState(NamedTuple):
    """Steps taken, and the learning rate of the last one (what a log shows)."""

    count: Int[Array, ""]
    learning_rate: Float[Array, ""]


def make_schedule(settings: OptimizerSettings) -> Schedule:
    """The learning rate at 0-based step t, as a function of an integer array.

    A second argument names a group by its factor: its rate is that factor times what
    is returned. Groups differ where they share `end_rate`.
    """

    def schedule(step: schedules.Steps, multiplier: float = 1.0) -> schedules.Rates:
        end = settings.end_rate and settings.end_rate / settings.learning_rate
        length = {"base": 1.0, "max_steps": settings.max_steps}
        if settings.schedule == "poly":
            factor = schedules.poly(step, power=settings.power, end=end, **length)
        elif settings.schedule == "warm_poly":
            factor = schedules.warm_poly(
                step,
                power=settings.power,
                end=end / multiplier,
                warmup_steps=settings.warmup_steps,
                **length,
            )
        elif settings.schedule == "cosine":
            factor = schedules.cosine(step, **length)
        elif settings.schedule == "cosine_restart":
            factor = schedules.cosine_restart(
                step,
                base=1.0,
                end=end / multiplier,
                restart_steps=settings.restart_steps,
                restart_factor=settings.restart_factor,
            )
        else:
            factor = schedules.poly(step, power=0.0, **length)
        if settings.warmup_steps and settings.schedule != "warm_poly":
            factor = factor * schedules.warm_up(step, settings.warmup_steps)
        return settings.learning_rate * factor

    return schedule


def make_optimizer(settings: OptimizerSettings) -> optax.GradientTransformation:
    """The update rule: clip, decay, momentum, group factor, scheduled rate.

    Frozen parameters count in no norm and keep every bit. Initialising refuses a
    `freeze` pattern that fits no parameter with a ConfigError.
    """
    rule_of = functools.cache(
        functools.partial(
            leaf_rule,
            groups=settings.groups,
            head_multiplier=settings.head_multiplier,
            freeze=settings.freeze,
            visits=settings.visits,
        )
    )
    clip = optax.clip_by_global_norm(settings.clip_norm)
    freeze = _freeze(settings.freeze, rule_of)
    return optax.chain(
        *([freeze] if settings.freeze else []),
        *([clip] if settings.clip_norm else []),
        *_core(settings, rule_of),
        *([freeze] if settings.freeze else []),
    )


def _core(
    settings: OptimizerSettings, rule_of: Callable[[tuple[str, ...]], LeafRule]
) -> tuple[optax.GradientTransformation, ...]:
    schedule = make_schedule(settings)
    if settings.visits != "once":
        sgd = repeated_sgd(
            schedule,
            rule_of,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            modern=settings.visits == "modern",
        )
        return (sgd,)
    decay = _decay(settings.weight_decay, rule_of)
    rate = _scale_by_rate(schedule, rule_of)
    momentum = optax.trace(settings.momentum)
    adam = _promoting(optax.scale_by_adam(b1=settings.beta1, b2=settings.beta2))
    return {
        "sgd": (decay, momentum, rate),
        "mxnet_sgd": (decay, rate, momentum),
        "adam": (decay, adam, rate),
        "adamw": (adam, decay, rate),
    }[settings.name]


def _promoting(
    inner: optax.GradientTransformation,
) -> optax.GradientTransformation:
    """`inner` where floats may meet integers: optax raises a decay to the step."""

    def update(updates, state, params=None):
        with jax.numpy_dtype_promotion("standard"):
            return inner.update(updates, state, params)

    return optax.GradientTransformation(inner.init, update)


def _decay(
    weight_decay: float, rule_of: Callable[[tuple[str, ...]], LeafRule]
) -> optax.GradientTransformation:
    def decay(rule, update, param):
        return update + weight_decay * rule.decay * param

    return optax.stateless(
        lambda updates, params: map_with_rules(decay, rule_of, updates, params)
    )


def _freeze(
    patterns: tuple[str, ...], rule_of: Callable[[tuple[str, ...]], LeafRule]
) -> optax.GradientTransformation:
    def init(params):
        check_patterns(patterns, params)
        return optax.EmptyState()

    def still(rule, update):
        # Whatever the parameter, minus zero is what leaves its sign of zero alone.
        return jnp.full_like(update, -0.0) if rule.frozen else update

    def update(updates, state, params=None):
        del params
        return map_with_rules(still, rule_of, updates), state

    return optax.GradientTransformation(init, update)


def _scale_by_rate(
    schedule: Schedule, rule_of: Callable[[tuple[str, ...]], LeafRule]
) -> optax.GradientTransformation:
    def init(params):
        del params
        zero = jnp.zeros((), jnp.int32)
        return ScheduleState(zero, schedule(zero))

    def update(updates, state, params=None):
        del params
        rates = functools.cache(functools.partial(schedule, state.count))

        def scale(rule, update):
            rate = rates(rule.rate).astype(update.dtype)
            return -rate * (update * rule.rate)

        updates = map_with_rules(scale, rule_of, updates)
        return updates, ScheduleState(state.count + 1, rates(1.0))

    return optax.GradientTransformation(init, update)
