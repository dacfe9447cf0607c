"""SGD that updates a parameter several times per step, as CRST's training does."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from sfda_jax.train.leaf_rules import LeafRule, leaf_path


class RepeatedState(NamedTuple):
    """Steps taken, the last step's learning rate, and the momentum of every leaf."""

    count: Int[Array, ""]
    learning_rate: Float[Array, ""]
    trace: PyTree


def repeated_sgd(
    schedule: Callable[[Int[Array, ""]], Float[Array, ""]],
    rule_of: Callable[[tuple[str, ...]], LeafRule],
    *,
    momentum: float,
    weight_decay: float,
    modern: bool,
) -> optax.GradientTransformation:
    """PyTorch's SGD over a list that names parameters several times.

    All visits of a step share the gradient and the momentum buffer (section 7.2 of
    CRST's specification): with e = g before the first of them,
    `e += wd theta; m = momentum m + e; theta -= rate m`. The modern release starts
    every visit from e = g, and in its first step every visit has a fresh buffer, the
    last of which stays.

    Args:
        schedule: learning rate at a 0-based step.
        rule_of: path of a parameter → its factors and visits per step.
        momentum: decay of the buffer.
        weight_decay: added to the gradient, times the parameter.
        modern: the later release's order.
    """

    def init(params):
        zero = jnp.zeros((), jnp.int32)
        return RepeatedState(zero, schedule(zero), jax.tree.map(jnp.zeros_like, params))

    def update(updates, state, params):
        rate = schedule(state.count)
        keep = jnp.where(state.count > 0, momentum, 0.0) if modern else momentum

        def visited(keys, gradient, buffer, param):
            rule = rule_of(leaf_path(keys))
            step = (rate * rule.rate).astype(param.dtype)
            kept = jnp.asarray(keep, param.dtype)
            decayed, change = gradient, jnp.zeros_like(param)
            for _ in range(rule.visits):
                start = gradient if modern else decayed
                decayed = start + weight_decay * rule.decay * (param + change)
                buffer = kept * buffer + decayed
                change = change - step * buffer
            return change, buffer

        pairs = jax.tree_util.tree_map_with_path(visited, updates, state.trace, params)
        changes, trace = jax.tree.transpose(
            jax.tree.structure(updates), jax.tree.structure((0, 0)), pairs
        )
        return changes, RepeatedState(state.count + 1, rate, trace)

    return optax.GradientTransformation(init, update)
