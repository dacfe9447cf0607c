"""Name → object by convention: the module is the registration."""

import difflib
import importlib
import importlib.util
import pkgutil
import re
from collections.abc import Iterable
from typing import Any

from sfda_jax.errors import ConfigError

_KINDS = {
    "methods": ("sfda_jax.methods", "Method"),
    "models": ("sfda_jax.models", "Model"),
    "selectors": ("sfda_jax.pseudo_labels", "Selector"),
    "datasets": ("data_prep", "Builder"),
}


def closest(name: str, choices: Iterable[str]) -> str:
    """` Did you mean 'x'?`, or an empty string when nothing is close."""
    match = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.5)
    return f" Did you mean {match[0]!r}?" if match else ""


def check_choice(what: str, value: str, choices: Iterable[str]) -> None:
    """Refuses a value that is none of the choices.

    Raises:
        ConfigError: names the closest choice and all of them.
    """
    if value not in choices:
        raise ConfigError(
            f"{what} is {value!r}.{closest(value, choices)}",
            hint=f"Expected one of: {', '.join(choices)}.",
        )


def list_names(kind: str) -> list[str]:
    """Names that `resolve(kind, name)` accepts, sorted."""
    package, attribute = _KINDS[kind]
    folder = importlib.import_module(package).__path__
    names = []
    for module in pkgutil.iter_modules(folder):
        spec = importlib.util.find_spec(f"{package}.{module.name}")
        with open(spec.origin, encoding="utf-8") as file:
            text = file.read()
        if re.search(
            rf"^(class {attribute}\b(?!\(Protocol)|{attribute} = )", text, re.M
        ):
            names.append(module.name)
    return sorted(names)


def resolve(kind: str, name: str) -> Any:
    """The class that a module holds for others to choose, imported on demand.

    Args:
        kind: `"methods"`, `"models"`, `"selectors"` or `"datasets"`.
        name: a module of ours (`"dtst"`), or `"package.module:Attribute"` of yours.

    Raises:
        ConfigError: unknown name; lists the closest match and every known one.
    """
    package, attribute = _KINDS[kind]
    if ":" in name:
        module_name, attribute = name.split(":", 1)
        try:
            return getattr(importlib.import_module(module_name), attribute)
        except (ImportError, AttributeError) as error:
            raise ConfigError(
                f"{kind}: cannot import {name!r}: {error}.",
                hint="Expected package.module:Attribute, importable from here.",
            ) from error
    names = list_names(kind)
    if name not in names:
        raise ConfigError(
            f"Unknown name {name!r} in {kind}.{closest(name, names)}",
            hint=f"Known: {', '.join(names)}; or package.module:Attribute.",
        )
    return getattr(importlib.import_module(f"{package}.{name}"), attribute)
