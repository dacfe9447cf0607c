"""Settings of a dataclass from a recipe's mapping: completed, typed, constructed.

A field may itself be settings: a dataclass (written as a mapping of its fields), or a
selector (a mapping that also has its `name`).
"""

import dataclasses
import typing
from collections.abc import Callable, Mapping
from typing import Any

from flax import linen as nn

from sfda_jax.errors import ConfigError
from sfda_jax.methods.base import MethodBase
from sfda_jax.overrides import plain, type_error, typed
from sfda_jax.pseudo_labels.selector import Selector
from sfda_jax.registry import closest, resolve

# Fields that the driver fills in, never a recipe.
_DRIVER_FIELDS = {"model", "task", "axis_name", "parent", "name", "num_classes"}


def reject_unknown(where: str, given: Mapping[str, Any], known) -> None:
    """Refuses keys that are not known.

    Raises:
        ConfigError: names the closest key and all of them.
    """
    for key in given:
        if key not in known:
            path = f"{where}.{key}" if where else key
            raise ConfigError(
                f"Unknown key config.{path}.{closest(key, known)}",
                hint=f"Known here: {', '.join(sorted(known))}.",
            )


def complete(where: str, given: Mapping[str, Any], cls: type) -> dict[str, Any]:
    """Every field of a dataclass, from a mapping and the published defaults.

    Args:
        where: the mapping's place in the recipe, for errors.
        given: name → value.
        cls: the dataclass.

    Raises:
        ConfigError: an unknown or missing key, a value of the wrong type.
    """
    fields = _fields(cls)
    reject_unknown(where, given, fields)
    full = {}
    for name, (annotation, default) in fields.items():
        path = f"{where}.{name}"
        if _is_nested(annotation):
            full[name] = _complete_nested(path, given.get(name, {}), default)
            continue
        value = given.get(name, default)
        if value is dataclasses.MISSING:
            raise ConfigError(
                f"config.{path} is missing ({annotation}).",
                hint=f"Give it: --config.{path}=…",
            )
        full[name] = plain(typed(path, value, annotation))
    return full


def partial(where: str, given: Mapping[str, Any], cls: type) -> dict[str, Any]:
    """What a round changes of a stage's settings: some fields, typed.

    Raises:
        ConfigError: an unknown key, a value of the wrong type.
    """
    fields = _fields(cls)
    reject_unknown(where, given, fields)
    changed = {}
    for name, value in given.items():
        path, (annotation, _) = f"{where}.{name}", fields[name]
        if _is_nested(annotation):
            changed[name] = dict(_mapping(path, value))
        else:
            changed[name] = typed(path, value, annotation)
    return changed


def build(cls: type, full: Mapping[str, Any]) -> dict[str, Any]:
    """A dataclass's arguments, nested settings constructed, from what `complete` gave.

    Raises:
        ConfigError: a value that nested settings refuse.
    """
    fields = _fields(cls)
    return {
        name: _construct(value, fields[name]) if _is_nested(fields[name][0]) else value
        for name, value in full.items()
    }


def build_changes(
    cls: type, full: Mapping[str, Any], changes: Mapping[str, Any], *, where: str
) -> dict[str, Any]:
    """A round's arguments, its nested settings laid over those of its stage.

    Args:
        cls: the dataclass.
        full: the stage's settings, complete.
        changes: the round's, from `partial`.
        where: the changes' place in the recipe.

    Raises:
        ConfigError: an unknown key or a wrong value of nested settings.
    """
    fields = _fields(cls)
    merged = {}
    for name, value in changes.items():
        annotation, default = fields[name]
        if _is_nested(annotation):
            same = value.get("name", full[name].get("name")) == full[name].get("name")
            value = {**full[name], **value} if same else value
            value = _complete_nested(f"{where}.{name}", value, default)
        merged[name] = value
    return build(cls, merged)


def _fields(cls: type) -> dict[str, tuple[Any, Any]]:
    """Settable fields of a dataclass: name → (annotation, default or MISSING)."""
    hints = typing.get_type_hints(cls)
    found = {}
    driven = _DRIVER_FIELDS if issubclass(cls, (MethodBase, nn.Module)) else ()
    for field in dataclasses.fields(cls):
        if field.name in driven or not field.init or _is_function(hints[field.name]):
            continue
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        found[field.name] = (hints[field.name], default)
    return found


def _is_function(annotation: Any) -> bool:
    """Whether a method fills the field in, never a recipe."""
    options = (annotation, *typing.get_args(annotation))
    return any(typing.get_origin(option) is Callable for option in options)


def _is_nested(annotation: Any) -> bool:
    return annotation is Selector or dataclasses.is_dataclass(annotation)


def _mapping(path: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise type_error(path, value, "a mapping of settings")
    return value


def _complete_nested(path: str, given: Any, default: Any) -> dict[str, Any]:
    """Complete nested settings over those of the default object."""
    given = dict(_mapping(path, given))
    cls, named = type(default), {}
    if isinstance(default, Selector):
        own = cls.__module__.rsplit(".", 1)[-1]
        named = {"name": given.pop("name", own)}
        chosen = resolve("selectors", named["name"])
        if chosen is not cls:
            return {**named, **complete(path, given, chosen)}
    base = {name: getattr(default, name) for name in _fields(cls)}
    return {**named, **complete(path, {**base, **given}, cls)}


def _construct(full: Mapping[str, Any], field: tuple[Any, Any]) -> Any:
    full = dict(full)
    cls = type(field[1])
    if "name" in full:
        cls = resolve("selectors", full.pop("name"))
    return cls(**build(cls, full))
