"""Every recipe, tiny: runs whole, stopped and resumed, evaluated again."""

import json
import pathlib

import jax
import numpy as np
import pytest

from sfda_jax import commands, config
from sfda_jax.train import interrupt, loop
from tests.smoke.recipes import RECIPES, small

pytestmark = pytest.mark.slow


def _final(recipe_config, folder: pathlib.Path):
    recipe = config.build(recipe_config)
    last = len(recipe.stages) - 1
    return jax.device_get(loop.stage_network(recipe, folder, last))


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: pathlib.Path(p).stem)
def test_stopped_and_resumed_equals_uninterrupted(path, tmp_path, monkeypatch):
    loaded = config.load_config(path, small(path))
    whole = commands.adapt(loaded, str(tmp_path / "whole"))

    steps = []

    def stop_at_every_third_step(run_steps):
        def wrapped(run, *args, **kwargs):
            def stop():
                steps.append(1)
                return 15 if len(steps) % 3 == 0 else 0

            object.__setattr__(run, "stop", stop)
            return run_steps(run, *args, **kwargs)

        return wrapped

    monkeypatch.setattr(loop, "_run_steps", stop_at_every_third_step(loop._run_steps))
    pieces = None
    for _ in range(10):
        try:
            pieces = commands.adapt(loaded, str(tmp_path / "pieces"))
            break
        except interrupt.Interrupted:
            continue
    assert pieces is not None
    assert len(steps) > 2
    assert pieces["target_mIoU"] == whole["target_mIoU"]
    ours, theirs = (_final(loaded, tmp_path / name) for name in ("pieces", "whole"))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)

    result = commands.evaluate(loaded, str(tmp_path / "whole"))
    headline = loaded.task.headline
    assert (
        pytest.approx(100 * result.scores.subsets[headline], abs=1e-9, nan_ok=True)
        == whole["target_mIoU"]["adapted"]
    )
    assert (tmp_path / "whole" / "report.html").stat().st_size > 1000
    written = json.loads((tmp_path / "whole" / "summary.json").read_text())
    assert written["subset"] == headline
