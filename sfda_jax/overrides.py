"""Values of a recipe: plain, typed, and overridden from command-line text."""

import ast
import re
import types
import typing
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from sfda_jax.errors import ConfigError
from sfda_jax.registry import closest

# Sections whose keys the user makes up, or that are refused later with the closest.
_OPEN_SECTIONS = re.compile(r"data\.manual_dirs|stages\.[^.]+\.target")


def plain(value: Any) -> Any:
    """Dicts and tuples only; JSON lists become tuples."""
    if isinstance(value, ConfigDict):
        value = value.to_dict()
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(plain(item) for item in value)
    return value


def typed(path: str, value: Any, annotation: Any) -> Any:
    """`value`, checked against a field's annotation (ints pass for floats)."""
    origin = typing.get_origin(annotation)
    if annotation is float and type(value) is int:
        return float(value)
    if annotation in (int, float, str, bool):
        if type(value) is not annotation:
            raise type_error(path, value, annotation.__name__)
    elif origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return typed(path, value, typing.get_args(annotation)[0])
    elif origin is tuple:
        if not isinstance(value, tuple | list):
            raise type_error(path, value, str(annotation))
        args = typing.get_args(annotation)
        if len(args) == 2 and args[1] is Ellipsis:
            args = (args[0],) * len(value)
        if len(args) != len(value):
            raise type_error(path, value, str(annotation))
        return tuple(
            typed(f"{path}[{i}]", *pair)
            for i, pair in enumerate(zip(value, args, strict=True))
        )
    return value


def type_error(path: str, value: Any, expected: str) -> ConfigError:
    """The error that names a setting, its value and the type expected."""
    return ConfigError(
        f"config.{path} is {value!r} ({type(value).__name__}); expected {expected}."
    )


_STEP = re.compile(r"\.?([^.\[\]]+)|\[(\d+)\]")


def _walk(tree: Any, key: str):
    """Yields (container, index) along a dotted key."""
    for name, index in _STEP.findall(key):
        step = int(index) if index else name
        yield tree, step
        if isinstance(step, int):
            tree = tree[step] if isinstance(tree, tuple) and step < len(tree) else None
        else:
            tree = tree.get(step) if isinstance(tree, Mapping) else None


def lookup(tree: Any, key: str) -> Any:
    """The value at a dotted key, or None."""
    for container, step in _walk(tree, key):
        try:
            value = container[step]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def override(tree: dict, key: str, text: str) -> None:
    """Sets one dotted key in place from command-line text, typed by what is there.

    Raises:
        ConfigError: unknown key (with the closest) or wrong type.
    """
    steps = list(_walk(tree, key))
    seen = ""
    for container, step in steps:
        if not _holds(container, step) and not _OPEN_SECTIONS.fullmatch(seen):
            known = list(container) if isinstance(container, Mapping) else []
            full = f"{seen}.{step}" if seen else str(step)
            raise ConfigError(
                f"Unknown key config.{full}.{closest(str(step), map(str, known))}",
                hint=f"Known there: {', '.join(map(str, known)) or 'nothing'}.",
            )
        seen += f"[{step}]" if isinstance(step, int) else f".{step}"
        seen = seen.lstrip(".")
    container, step = steps[-1]
    value = _parse(key, text, container[step] if _holds(container, step) else "")
    for container, step in reversed(steps):
        if isinstance(container, tuple):
            value = (*container[:step], value, *container[step + 1 :])
        else:
            container[step] = value
            return


def plant(tree: dict, key: str, text: str) -> None:
    """Sets a name at a dotted key that the recipe does not state, where it may stand.

    Names decide which settings exist, so they have to be there before the defaults;
    a key that nobody knows is refused later, with the closest.
    """
    *parents, last = key.split(".")
    for step in parents:
        tree = tree.setdefault(step, {}) if isinstance(tree, dict) else None
    if isinstance(tree, dict):
        tree[last] = text


def _holds(container: Any, step: str | int) -> bool:
    if isinstance(container, tuple):
        return isinstance(step, int) and step < len(container)
    return isinstance(container, Mapping) and step in container


def _parse(key: str, text: str, old: Any) -> Any:
    if isinstance(old, str):
        return text
    if isinstance(old, bool):
        if text.lower() not in ("true", "false"):
            raise type_error(key, text, "true or false")
        return text.lower() == "true"
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError) as error:
        raise type_error(key, text, type(old).__name__) from error
    value = plain(value)
    if old is None:  # an optional setting; its type is checked with the whole recipe
        return value
    if isinstance(old, float) and type(value) is int:
        value = float(value)
    if type(value) is not type(old):
        raise type_error(key, value, type(old).__name__)
    return value
