"""Which of the recipes differ by more than numbers, and which stand for a method."""

from collections.abc import Iterable, Mapping
from typing import Any

from sfda_jax import config
from tests.smoke.recipes import small


def distinct(paths: Iterable[str]) -> list[str]:
    """The first of those that differ by numbers and data only, and of each task."""
    found, kinds, tasks = [], set(), set()
    for path in paths:
        loaded = config.load_config(path, small(path)).to_dict()
        kind, task = _kind(loaded), loaded["task"]["classes"]
        if kind not in kinds or task not in tasks:
            found.append(path)
        kinds.add(kind)
        tasks.add(task)
    return found


def with_every_method(paths: Iterable[str]) -> list[str]:
    """Some of the recipes, early and with few stages, with every method among them.

    How often a method comes, and on which domain, makes no difference to stopping
    (tests/train/test_continual.py).
    """
    stages = {path: _stages(config.load_config(path).to_dict()) for path in paths}
    found = {path: set(map(_method, stages[path])) for path in paths}
    late_first = reversed(found)
    for path in sorted(late_first, key=lambda path: len(stages[path]), reverse=True):
        others = [found[other] for other in found if other != path]
        if found[path] <= set().union(*others):
            del found[path]
    return list(found)


def _stages(loaded: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [loaded["stages"][name] for name in loaded["pipeline"]]


def _method(stage: Mapping[str, Any]) -> tuple[str, str, bool]:
    """A method, and what makes a difference to what it stores."""
    settings = stage["settings"]
    return stage["method"], settings.get("crop", ""), bool(settings.get("sets_from"))


def _kind(loaded: Mapping[str, Any]) -> Any:
    """A recipe without its names, its data and its numbers."""
    task, stages = loaded["task"], _stages(loaded)
    return _shape(
        {
            "model": loaded["model"],
            "evaluation": loaded["evaluation"],
            "source": bool(task["source"].get("dataset")),
            "source_free": task["source_free"],
            **{
                f"stage {number}": {**stage, "target": bool(stage["target"])}
                for number, stage in enumerate(stages)
            },
        }
    )


def _shape(value: Any) -> Any:
    """What is left of settings when numbers are all the same."""
    if isinstance(value, Mapping):
        return tuple(sorted((name, _shape(part)) for name, part in value.items()))
    if isinstance(value, list | tuple):
        return tuple(sorted({_shape(part) for part in value}, key=repr))
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return "a number" if is_number else value
