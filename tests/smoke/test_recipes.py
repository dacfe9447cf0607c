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


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Programs compiled once for all of these runs."""
    return str(tmp_path_factory.mktemp("compiled"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: pathlib.Path(p).stem)
def test_stopped_and_resumed_equals_uninterrupted(
    path, tmp_path, monkeypatch, compiled
):
    overrides = small(path) | {"parallel.compilation_cache": compiled}
    loaded = config.load_config(path, overrides)
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

    result = commands.evaluate(loaded, str(tmp_path / "whole"))
    headline = config.build(loaded).task.headline
    assert (
        pytest.approx(100 * result.scores.subsets[headline], abs=1e-9, nan_ok=True)
        == whole["target_mIoU"]["adapted"]
    )
    assert (tmp_path / "whole" / "report.html").stat().st_size > 1000
    written = json.loads((tmp_path / "whole" / "summary.json").read_text())
    assert written["subset"] == headline
