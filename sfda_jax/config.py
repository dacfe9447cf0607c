"""Recipes: load, override, complete with the published defaults, check, build."""

import dataclasses
import importlib.util
import json
import pathlib
import types
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from sfda_jax import settings
from sfda_jax.data.label_maps import read_class_file
from sfda_jax.errors import ConfigError
from sfda_jax.overrides import lookup, override, plain, plant, type_error, typed
from sfda_jax.registry import check_choice, closest, resolve
from sfda_jax.tasks import ClassSpace, Domain, Task, class_space
from sfda_jax.train import recipe as parts
from sfda_jax.train.optim import OptimizerSettings
from sfda_jax.train.origins import check_references

_SECTIONS = {
    "data": parts.DataSettings,
    "parallel": parts.ParallelSettings,
    "evaluation": parts.EvaluationSettings,
    "checkpoint": parts.CheckpointSettings,
    "log": parts.LogSettings,
    "health": parts.HealthSettings,
}
_EXAMPLE = "See configs/demo.py."
_STAGE_KEYS = (
    *("method", "settings", "optimizer", "rounds"),
    *("init_from", "network", "fresh_optimizer", "target"),
)


def load_config(path: str, overrides: Mapping[str, str] | None = None) -> ConfigDict:
    """The complete, locked configuration of a recipe file with overrides applied.

    Every setting is present afterwards: what the recipe leaves out is filled in from
    the published defaults of the methods, the network and the driver.

    Args:
        path: a Python file with `get_config()`; `FILE.py:VARIANT` where it has
            `VARIANTS` and `get_config(variant)`. `FILE.py` alone is the first of them;
            the others' names end in `_VARIANT`.
        overrides: dotted key → text, e.g. `{"stages.adapt.settings.ema_decay": "0.9"}`.

    Raises:
        ConfigError: missing file, unknown variant, key or name, wrong type.
    """
    return _finish(_read(path), overrides or {})


def variants(file: str) -> tuple[str, ...]:
    """What may follow `FILE.py:` in `load_config`, the default first; () for nothing.

    Raises:
        ConfigError: missing file.
    """
    return getattr(_module(file), "VARIANTS", ())


def _finish(raw: dict[str, Any], overrides: Mapping[str, str]) -> ConfigDict:
    # Names decide which defaults exist, so what the recipe states is overridden first.
    for key, text in overrides.items():
        if lookup(raw, key) is not None:
            override(raw, key, text)
        elif key.endswith(".name"):
            plant(raw, key, text)
    full = complete(raw)
    for key, text in overrides.items():
        override(full, key, text)
    return ConfigDict(complete(full)).lock()


def from_json(
    path: pathlib.Path, overrides: Mapping[str, str] | None = None
) -> ConfigDict:
    """The configuration a run directory was made with, with overrides applied.

    Raises:
        ConfigError: the file is missing or unreadable.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path}: no readable configuration ({error}).",
            hint="Give the directory of a run: --workdir=runs/NAME.",
        ) from error
    return _finish(plain(raw), overrides or {})


def complete(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe with every default filled in.

    Raises:
        ConfigError: unknown or missing keys, wrong types, unknown names.
    """
    top = {"name", "seed", "task", "model", "pipeline", "stages", *_SECTIONS}
    settings.reject_unknown("", raw, top)
    for key in ("name", "task", "model", "pipeline", "stages", "evaluation"):
        if key not in raw:
            raise ConfigError(f"config.{key} is missing.", hint=_EXAMPLE)
    full = {
        "name": raw["name"],
        "seed": typed("seed", raw.get("seed", 0), int),
        "task": _complete_task(raw["task"]),
        "model": _complete_named("model", raw["model"], "models", "name"),
        "pipeline": tuple(raw["pipeline"]),
        "stages": {},
    }
    for key, section in _SECTIONS.items():
        full[key] = settings.complete(key, raw.get(key, {}), section)
    for name in full["pipeline"]:
        if name not in raw["stages"]:
            raise ConfigError(
                f"config.pipeline names {name!r}, which config.stages does not hold."
                f"{closest(name, raw['stages'])}"
            )
    for name, stage in raw["stages"].items():
        full["stages"][name] = _complete_stage(f"stages.{name}", stage)
    return full


def build(config: ConfigDict) -> parts.Recipe:
    """The recipe with its model and methods constructed.

    Raises:
        ConfigError: a value that a method, network or task refuses.
    """
    full = plain(config)
    task = _build_task(full["task"])
    attributes = dict(full["model"])
    factory = resolve("models", attributes.pop("name"))
    model = factory(num_classes=task.classes.num_classes, **attributes)
    stages = tuple(
        _build_stage(name, full["stages"][name], model, task)
        for name in full["pipeline"]
    )
    _check_source_free(task, stages)
    sections = {key: cls(**full[key]) for key, cls in _SECTIONS.items()}
    trained = any(stage.trains_on_source for stage in stages)
    if not trained and not sections["evaluation"].source:
        # A source that nobody trains on or is scored on is not asked for.
        task = dataclasses.replace(task, source=None)
        stages = tuple(
            stage.with_task(dataclasses.replace(stage.task, source=None))
            for stage in stages
        )
    check_choice("config.parallel.mode", sections["parallel"].mode, ("jit", "pmap"))
    if sections["evaluation"].oracle and not sections["evaluation"].every:
        raise ConfigError(
            "config.evaluation.oracle is on but evaluation.every is 0.",
            hint="Set --config.evaluation.every=N.",
        )
    recipe = parts.Recipe(
        name=full["name"],
        seed=full["seed"],
        task=task,
        model=model,
        stages=stages,
        **sections,
    )
    check_references(recipe)
    return recipe


def _read(path: str) -> dict[str, Any]:
    file, colon, variant = path.rpartition(":")
    if not file.endswith(".py"):  # no variant, or the colon of a Windows drive
        file, colon, variant = path, "", ""
    module = _module(file)
    if not hasattr(module, "get_config"):
        raise ConfigError(f"{file} has no get_config().", hint=_EXAMPLE)
    known = getattr(module, "VARIANTS", ())
    if not known:
        if colon:
            raise ConfigError(
                f"--config={path}: this recipe has no variants.",
                hint=f"--config={file}",
            )
        return plain(module.get_config())
    variant = variant if colon else known[0]
    check_choice(f"The variant in --config={path}", variant, known)
    raw = plain(module.get_config(variant))
    if variant != known[0] and "name" in raw:
        raw["name"] = f"{raw['name']}_{variant}"
    return raw


def _module(path: str) -> types.ModuleType:
    file = pathlib.Path(path)
    if not file.is_file():
        known = sorted(str(p) for p in file.parent.glob("*.py") if p.stem != "__init__")
        raise ConfigError(
            f"--config={path}: no such recipe.{closest(path, known)}",
            hint=f"Found there: {', '.join(known) or 'nothing'}.",
        )
    spec = importlib.util.spec_from_file_location(f"recipe_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _complete_named(where, given, kind, key) -> dict[str, Any]:
    if key not in given:
        raise ConfigError(f"config.{where}.{key} is missing.", hint=_EXAMPLE)
    cls = resolve(kind, given[key])
    rest = {k: v for k, v in given.items() if k != key}
    return {key: given[key], **settings.complete(where, rest, cls)}


def _complete_task(given: Mapping[str, Any]) -> dict[str, Any]:
    known = ("name", "classes", "headline", "source_free", "source", "target")
    settings.reject_unknown("task", given, known)
    for key in ("name", "classes", "target"):
        if key not in given:
            raise ConfigError(f"config.task.{key} is missing.", hint=_EXAMPLE)
    full = {
        "name": given["name"],
        "classes": given["classes"],
        "headline": given.get("headline", ""),
        "source_free": typed("task.source_free", given.get("source_free", True), bool),
        "source": {},
    }
    for side in ("source", "target"):
        if given.get(side):
            fields = {f.name: "" for f in dataclasses.fields(Domain)}
            settings.reject_unknown(f"task.{side}", given[side], fields)
            full[side] = {**fields, **given[side]}
    return full


def _complete_stage(where: str, given: Mapping[str, Any]) -> dict[str, Any]:
    settings.reject_unknown(where, given, _STAGE_KEYS)
    for key in ("method", "rounds"):
        if not given.get(key):
            raise ConfigError(f"config.{where}.{key} is missing.", hint=_EXAMPLE)
    method = resolve("methods", given["method"])
    return {
        "method": given["method"],
        "settings": settings.complete(
            f"{where}.settings", given.get("settings", {}), method
        ),
        "optimizer": settings.complete(
            f"{where}.optimizer", given.get("optimizer", {}), OptimizerSettings
        ),
        "rounds": tuple(
            _complete_round(f"{where}.rounds[{i}]", entry, method)
            for i, entry in enumerate(given["rounds"])
        ),
        "init_from": typed(
            f"{where}.init_from", given.get("init_from", "previous"), str
        ),
        "network": given.get("network", "student"),
        "fresh_optimizer": typed(
            f"{where}.fresh_optimizer", given.get("fresh_optimizer", False), bool
        ),
        "target": _complete_target(f"{where}.target", given.get("target", {})),
    }


def _complete_target(where: str, given: Any) -> dict[str, str]:
    """What a stage changes of the task's target."""
    if not isinstance(given, Mapping):
        raise type_error(where, given, "a mapping, e.g. {'train': 'dusk_train'}")
    settings.reject_unknown(where, given, {f.name for f in dataclasses.fields(Domain)})
    return {key: typed(f"{where}.{key}", value, str) for key, value in given.items()}


def _complete_round(where: str, given: Mapping[str, Any], method: type) -> dict:
    full = settings.complete(where, given, parts.Round)
    for key, cls in (("settings", method), ("optimizer", OptimizerSettings)):
        full[key] = settings.partial(f"{where}.{key}", full[key], cls)
    return full


def _build_task(full: Mapping[str, Any]) -> Task:
    classes = _classes(full["classes"])
    return Task(
        name=full["name"],
        source=Domain(**full["source"]) if full["source"] else None,
        target=Domain(**full["target"]),
        classes=classes,
        headline=full["headline"] or next(iter(classes.subsets)),
        source_free=full["source_free"],
    )


def _classes(name: str) -> ClassSpace:
    """A class space by its name, or from a class file of the user's."""
    return read_class_file(name)[0] if name.endswith(".txt") else class_space(name)


def _build_stage(name, full, model, task) -> parts.Stage:
    check_choice(
        f"config.stages.{name}.network", full["network"], ("student", "teacher")
    )
    method = resolve("methods", full["method"])
    target = dataclasses.replace(task.target, **full["target"])
    task = dataclasses.replace(task, target=target)
    arguments = settings.build(method, full["settings"])
    rounds = []
    for number, entry in enumerate(full["rounds"]):
        changes = settings.build_changes(
            method,
            full["settings"],
            entry["settings"],
            where=f"stages.{name}.rounds[{number}].settings",
        )
        rounds.append(parts.Round(**{**entry, "settings": changes}))
    return parts.Stage(
        name=name,
        method=method(model=model, task=task, **arguments),
        optimizer=OptimizerSettings(**full["optimizer"]),
        rounds=tuple(rounds),
        init_from=full["init_from"],
        network=full["network"],
        fresh_optimizer=full["fresh_optimizer"],
    )


def _check_source_free(task: Task, stages: Sequence[parts.Stage]) -> None:
    adapting = False
    for stage in stages:
        if adapting and task.source_free and stage.trains_on_source:
            raise ConfigError(
                f"Stage {stage.name!r} trains on the source after adaptation began, "
                "but config.task.source_free is True.",
                hint="Move the stage forward, or set --config.task.source_free=false.",
            )
        if stage.trains_on_source and task.source is None:
            raise ConfigError(
                f"Stage {stage.name!r} trains on the source, but the task has none.",
                hint="Add config.task.source, or start from a checkpoint.",
            )
        adapting = adapting or not stage.trains_on_source
