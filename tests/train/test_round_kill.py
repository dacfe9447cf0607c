"""Killed in any phase of a round, a run ends with the same labels and networks."""

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
from sfda_jax.pseudo_labels.store import MANIFEST, PseudoLabelStore
from sfda_jax.train import origins
from tests.train import round_recipe

pytestmark = pytest.mark.slow

# First ticks: a stage's rounds take one more than they have steps.
CBST_0, CBST_1 = 3, 8


class Run:
    """A run directory, and the command that fills it."""

    def __init__(self, workdir: pathlib.Path, cache: pathlib.Path):
        self.workdir = workdir
        self._command = [
            *(sys.executable, "-m", "sfda_jax.main"),
            *("--config", round_recipe.__file__, "--workdir", str(workdir)),
            f"--config.parallel.compilation_cache={cache}",
        ]
        self._environment = {
            **os.environ,
            "XLA_FLAGS": "",
            "JAX_PLATFORMS": "cpu",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
        }

    def finish(self):
        subprocess.run(
            self._command, env=self._environment, check=True, capture_output=True
        )

    def kill_when(self, condition):
        process = subprocess.Popen(
            self._command, env=self._environment, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 300
        while process.poll() is None and time.monotonic() < deadline:
            if condition():
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.002)
        assert process.wait(timeout=300) == -signal.SIGKILL

    def store(self, stage, round_=0):
        folder = self.workdir / "stages" / stage / "rounds" / f"{round_:02d}"
        return PseudoLabelStore(folder / "pseudo_labels")

    def labelling(self, stage, number):
        """Whether a round is amid a pass, far enough to go on there."""
        saved = self.store(stage).progress()
        return saved is not None and saved[0]["number"] == number and self._amid(saved)

    @staticmethod
    def _amid(saved):
        return 0 < saved[0]["batches"] < 64

    def logged(self):
        """The last step that was logged."""
        return max((line["tick"] for line in self.lines()), default=0)

    def lines(self):
        path = self.workdir / "metrics.jsonl"
        text = path.read_text() if path.exists() else ""
        return [json.loads(line) for line in text.splitlines() if line.endswith("}")]

    def checkpoint(self, number):
        return (self.workdir / "checkpoints" / str(number)).exists()

    def writing(self):
        """Whether a checkpoint is being written."""
        return any((self.workdir / "checkpoints").glob("*tmp*"))

    def labels(self):
        """Every label map, manifest and picture of a round."""
        return {
            path.relative_to(self.workdir): path.read_bytes()
            for path in (self.workdir / "stages").rglob("*")
            if path.is_file()
            and "rounds" in path.parts
            and not path.name.startswith(".")  # a write that the kill cut short
        }

    def networks(self):
        recipe = config.build(config.from_json(self.workdir / "config.json"))
        return [
            jax.device_get(origins.stage_network(recipe, self.workdir, index))
            for index in range(len(recipe.stages))
        ]

    def scored(self):
        """What was logged of the labels, by stage and round."""
        return {
            (line["stage"], line["round"]): {**line, "wall": None}
            for line in self.lines()
            if line.get("event") == "pseudo_labels"
        }


def test_killed_in_every_phase(tmp_path):
    whole = Run(tmp_path / "whole", tmp_path / "cache")
    killed = Run(tmp_path / "killed", tmp_path / "cache")
    whole.finish()
    cbst, iast = "02-cbst", "03-iast"

    killed.kill_when(lambda: killed.labelling(cbst, 0))  # measuring
    assert killed.store(cbst).progress()[0]["number"] == 0
    killed.kill_when(lambda: killed.labelling(cbst, 1))  # writing labels
    assert not (killed.store(cbst).root / MANIFEST).exists()
    killed.kill_when(lambda: killed.logged() > CBST_0)  # training
    assert killed.store(cbst).complete() and not killed.checkpoint(CBST_1 - 1)
    killed.kill_when(lambda: killed.logged() > CBST_0 + 1 and killed.writing())
    killed.kill_when(lambda: killed.checkpoint(CBST_1 - 1))  # between two rounds
    assert not killed.store(cbst, 1).complete()
    killed.kill_when(lambda: killed.labelling(iast, 0))  # moving its thresholds
    assert not (killed.store(iast).root / MANIFEST).exists()
    killed.finish()

    assert killed.labels() == whole.labels()
    assert len(whole.labels()) == 3 * (64 + 2)
    jax.tree.map(np.testing.assert_array_equal, killed.networks(), whole.networks())
    assert killed.scored() == whole.scored()
    scores = [
        json.loads((run.workdir / "summary.json").read_text())["target_mIoU"]
        for run in (killed, whole)
    ]
    assert scores[0] == scores[1]
