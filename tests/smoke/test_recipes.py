"""Every kind of recipe, tiny: runs whole, evaluated again, stopped and resumed."""

import contextlib
import itertools
import json
import pathlib
import signal

import jax
import numpy as np
import pytest

from sfda_jax import commands, config
from sfda_jax.train import interrupt, loop, origins
from tests.smoke import kinds
from tests.smoke.recipes import RECIPES, small

pytestmark = pytest.mark.slow

DISTINCT = kinds.distinct(RECIPES)
STOPPED = kinds.with_every_method(DISTINCT)


def _name(path):
    return pathlib.Path(path).name.replace(".py", "")


def _final(recipe_config, folder: pathlib.Path):
    recipe = config.build(recipe_config)
    last = len(recipe.stages) - 1
    return jax.device_get(origins.stage_network(recipe, folder, last))


def _interrupt(monkeypatch):
    """SIGTERM amid the first pass over images, and after every other step."""
    passes, steps = itertools.count(1), itertools.count(1)
    make_round_context = loop.make_round_context

    def in_pass():
        return signal.SIGTERM if next(passes) == 2 else 0

    def after_step():
        return signal.SIGTERM if next(steps) % 2 else 0

    def round_context(*args, stop, **services):
        return make_round_context(*args, stop=in_pass, **services)

    @contextlib.contextmanager
    def stop_requests():
        yield after_step

    monkeypatch.setattr(loop, "make_round_context", round_context)
    monkeypatch.setattr(loop, "stop_requests", stop_requests)


def _in_pieces(loaded, folder):
    """The summary of a run that is stopped again and again, and how often it was."""
    for number in itertools.count():
        with contextlib.suppress(interrupt.Interrupted):
            return commands.adapt(loaded, str(folder)), number


@pytest.mark.parametrize("path", DISTINCT, ids=_name)
def test_runs_whole_and_is_evaluated_again(path, tmp_path, monkeypatch):
    loaded = config.load_config(path, small(path))
    whole = commands.adapt(loaded, str(tmp_path / "whole"))
    result = commands.evaluate(loaded, str(tmp_path / "whole"))
    headline = config.build(loaded).task.headline
    assert (
        pytest.approx(100 * result.scores.subsets[headline], abs=1e-9, nan_ok=True)
        == whole["target_mIoU"]["adapted"]
    )
    assert (tmp_path / "whole" / "report.html").stat().st_size > 1000
    written = json.loads((tmp_path / "whole" / "summary.json").read_text())
    assert written["subset"] == headline
    if path not in STOPPED:
        return

    # Here, not in a test of its own: it needs the uninterrupted run.
    _interrupt(monkeypatch)
    pieces, stops = _in_pieces(loaded, tmp_path / "pieces")
    stages = [loaded.stages[name] for name in loaded.pipeline]
    trained = [e for stage in stages for e in stage.rounds if e["num_steps"]]
    assert stops >= len(trained)
    assert pieces["target_mIoU"] == whole["target_mIoU"]
    ours, theirs = (_final(loaded, tmp_path / name) for name in ("pieces", "whole"))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
