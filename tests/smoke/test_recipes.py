"""Every recipe, tiny: runs whole, stopped and resumed, evaluated again."""

import contextlib
import json
import pathlib
import signal

import jax
import numpy as np
import pytest

from sfda_jax import commands, config
from sfda_jax.train import interrupt, loop, origins
from tests.smoke.recipes import RECIPES, small

pytestmark = pytest.mark.slow


def _final(recipe_config, folder: pathlib.Path):
    recipe = config.build(recipe_config)
    last = len(recipe.stages) - 1
    return jax.device_get(origins.stage_network(recipe, folder, last))


def _name(path):
    return pathlib.Path(path).name.replace(".py", "")


def _load(path, compiled):
    overrides = small(path) | {"parallel.compilation_cache": compiled}
    return config.load_config(path, overrides)


def _kind(path):
    """What makes a difference to stopping: the methods, and what they store."""
    loaded = config.load_config(path)
    stages = [loaded.stages[name] for name in loaded.pipeline]
    return [(stage.method, stage.settings.get("crop")) for stage in stages]


def _is_first_of_its_kind(path):
    kinds = [_kind(other) for other in RECIPES]
    return kinds.index(_kind(path)) == RECIPES.index(path)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Programs compiled once for all of these runs."""
    return str(tmp_path_factory.mktemp("compiled"))


@pytest.mark.parametrize("path", RECIPES, ids=_name)
def test_runs_whole_and_is_evaluated_again(path, tmp_path, compiled):
    loaded = _load(path, compiled)
    whole = commands.adapt(loaded, str(tmp_path))
    result = commands.evaluate(loaded, str(tmp_path))
    headline = config.build(loaded).task.headline
    assert (
        pytest.approx(100 * result.scores.subsets[headline], abs=1e-9, nan_ok=True)
        == whole["target_mIoU"]["adapted"]
    )
    assert (tmp_path / "report.html").stat().st_size > 1000
    written = json.loads((tmp_path / "summary.json").read_text())
    assert written["subset"] == headline


@pytest.mark.parametrize(
    "path", [path for path in RECIPES if _is_first_of_its_kind(path)], ids=_name
)
def test_stopped_and_resumed_equals_uninterrupted(
    path, tmp_path, monkeypatch, compiled
):
    loaded = _load(path, compiled)
    whole = commands.adapt(loaded, str(tmp_path / "whole"))

    steps = []

    def stop():
        steps.append(1)
        return signal.SIGTERM if len(steps) in (1, 4) else 0

    @contextlib.contextmanager
    def stop_requests():
        yield stop

    monkeypatch.setattr(loop, "stop_requests", stop_requests)
    for _ in range(2):
        with pytest.raises(interrupt.Interrupted):
            commands.adapt(loaded, str(tmp_path / "pieces"))
    pieces = commands.adapt(loaded, str(tmp_path / "pieces"))
    assert pieces["target_mIoU"] == whole["target_mIoU"]
    ours, theirs = (_final(loaded, tmp_path / name) for name in ("pieces", "whole"))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
