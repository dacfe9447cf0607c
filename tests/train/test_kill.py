"""Killed at any moment, a run ends with the same bits; SIGTERM saves and leaves."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from sfda_jax import config
from sfda_jax.train import origins
from tests.smoke.recipes import DEMO, as_flags, small

pytestmark = pytest.mark.slow


def _command(workdir: pathlib.Path, cache: pathlib.Path) -> list[str]:
    flags = as_flags(small(DEMO, steps=4))
    return [
        *(sys.executable, "-m", "sfda_jax.main", "--config", DEMO),
        *("--workdir", str(workdir)),
        f"--config.parallel.compilation_cache={cache}",
        *flags,
    ]


def _environment() -> dict[str, str]:
    return {
        **os.environ,
        "XLA_FLAGS": "",
        "JAX_PLATFORMS": "cpu",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


def _logged(workdir: pathlib.Path) -> int:
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    whole = [json.loads(line) for line in lines if line.endswith("}")]
    return max((line["tick"] for line in whole), default=0)


def _writing(workdir: pathlib.Path) -> bool:
    return any((workdir / "checkpoints").glob("*tmp*"))


def _kill_when(command: list[str], condition, number: int) -> int:
    process = subprocess.Popen(command, env=_environment(), stderr=subprocess.PIPE)
    deadline = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        if condition():
            process.send_signal(number)
            break
        time.sleep(0.002)
    process.communicate(timeout=300)
    return process.returncode


def _finish(command: list[str]) -> None:
    subprocess.run(command, env=_environment(), check=True, capture_output=True)


def _networks(workdir: pathlib.Path):
    recipe = config.build(config.from_json(workdir / "config.json"))
    return [
        jax.device_get(origins.stage_network(recipe, workdir, index))
        for index in range(len(recipe.stages))
    ]


def test_kill_and_terminate(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    cache = tmp_path / "cache"
    _finish(_command(whole, cache))
    command = _command(killed, cache)
    moments = [
        lambda: _logged(killed) >= 2,
        lambda: _logged(killed) >= 3 and _writing(killed),
        lambda: _logged(killed) >= 9,
    ]
    for moment in moments:
        assert _kill_when(command, moment, signal.SIGKILL) == -signal.SIGKILL
    done = _logged(killed) + 1
    status = _kill_when(command, lambda: _logged(killed) > done, signal.SIGTERM)
    assert status == 128 + signal.SIGTERM
    _finish(command)
    jax.tree.map(np.testing.assert_array_equal, _networks(killed), _networks(whole))
    scores = [
        json.loads((folder / "summary.json").read_text())["target_mIoU"]
        for folder in (whole, killed)
    ]
    assert scores[0] == scores[1]
