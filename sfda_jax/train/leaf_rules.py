"""How an optimiser treats every single parameter: rate, decay, visits, freezing."""

import fnmatch
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jaxtyping import PyTree

from sfda_jax.errors import ConfigError
from sfda_jax.models.parameter_groups import (
    cbst_rate_and_decay,
    rate_and_decay,
    sgd_visits,
)
from sfda_jax.registry import closest

GROUPS = ("head", "cbst", "mmseg")
"""Known ways of grouping parameters."""


class LeafRule(NamedTuple):
    """What holds for one parameter: factors of learning rate and weight decay, whether
    it stays as it is, and its updates per step where visits are repeated."""

    rate: float
    decay: float
    frozen: bool
    visits: int


def leaf_rule(
    path: tuple[str, ...],
    *,
    groups: str,
    head_multiplier: float,
    freeze: tuple[str, ...] = (),
    visits: str = "once",
) -> LeafRule:
    """The rule of the parameter at this path.

    Args:
        path: keys from the top of `params`.
        groups: one of `GROUPS`.
        head_multiplier: rate of the head in the groups `head` and `mmseg`.
        freeze: patterns of "/"-joined paths that are not trained.
        visits: `once`, or an order of `OptimizerSettings.visits` that repeats them.
    """
    if groups == "cbst":
        rate, decay = cbst_rate_and_decay(path)
    elif groups == "mmseg":
        rate, decay = rate_and_decay(path, head_rate=head_multiplier)
    else:
        rate, decay = (head_multiplier if path[0] == "head" else 1.0), 1.0
    name = "/".join(path)
    frozen = any(fnmatch.fnmatchcase(name, pattern) for pattern in freeze)
    return LeafRule(
        rate,
        0.0 if frozen else decay,
        frozen=frozen,
        visits=1 if visits == "once" else sgd_visits(path),
    )


def leaf_path(keys: tuple[Any, ...]) -> tuple[str, ...]:
    """The names in a key path of `jax.tree_util`."""
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in keys)


def map_with_rules(
    fn: Callable[..., Any],
    rule_of: Callable[[tuple[str, ...]], LeafRule],
    tree: PyTree,
    *rest: PyTree,
) -> PyTree:
    """`fn(rule, leaf, *leaves of rest)` for every parameter of the tree."""
    return jax.tree_util.tree_map_with_path(
        lambda keys, *leaves: fn(rule_of(leaf_path(keys)), *leaves), tree, *rest
    )


def check_patterns(patterns: tuple[str, ...], params: PyTree) -> None:
    """Refuses a pattern that fits no parameter.

    Raises:
        ConfigError: names the pattern and the closest parameter.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    names = ["/".join(leaf_path(keys)) for keys, _ in leaves]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise ConfigError(
                f"optimizer.freeze: {pattern!r} fits no parameter."
                f"{closest(pattern, names)}",
                hint=f"Patterns fit whole paths, such as {names[0]!r}; * stands for "
                "any part.",
            )
