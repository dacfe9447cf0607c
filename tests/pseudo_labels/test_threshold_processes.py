"""Thresholds of one, two and four real processes, each with its share of the images."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np

from sfda_jax.ops.processes import total
from sfda_jax.pseudo_labels.class_balanced import Selector

SETTINGS = [
    {"accumulate": accumulate, "policy": policy}
    for accumulate in ("exact_spool", "exact_radix", "hist")
    for policy in ("class", "global")
]
NUM_IMAGES, NUM_CLASSES = 7, 4


def image(index: int) -> dict[str, np.ndarray]:
    """What `measure` gives of one image; class 3 lies in the last one only."""
    rng = np.random.default_rng(index)
    labels = rng.integers(0, 3, (1, 20, 30), dtype=np.uint8)
    labels[0, :2, :5] = 3 if index == NUM_IMAGES - 1 else 0
    return {"labels": labels, "confidence": rng.random((1, 20, 30), np.float32)}


def summaries(scratch: pathlib.Path, *, process: int, count: int) -> list[dict]:
    found = []
    for number, settings in enumerate(SETTINGS):
        selector = Selector(portion=0.3, **settings)
        state = selector.init(NUM_CLASSES)
        folder = scratch / str(number)
        for _ in range(selector.num_measures):
            for index in range(process, NUM_IMAGES, count):
                state = selector.update(state, image(index), scratch=folder)
            state = selector.settle(state, scratch=folder, total=total)
        found.append(selector.summary(state))
    return found


def _work(address: str, process: int, count: int, folder: str) -> None:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(address, num_processes=count, process_id=process)
    assert jax.process_count() == count
    wide = np.array([[2**40 + process]])
    assert total(wide).tolist() == [[count * 2**40 + sum(range(count))]]
    scratch = pathlib.Path(folder) / f"scratch-{process}"
    found = summaries(scratch, process=process, count=count)
    path = pathlib.Path(folder) / f"{process}.json"
    path.write_text(json.dumps(found), encoding="utf-8")


def _world(folder: pathlib.Path, count: int) -> list[subprocess.Popen]:
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    root = str(pathlib.Path(__file__).parents[2])
    environment = {**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    environment["PYTHONPATH"] = root
    command = [sys.executable, "-m", "tests.pseudo_labels.test_threshold_processes"]
    return [
        subprocess.Popen(
            [*command, address, str(process), str(count), str(folder)],
            env=environment,
            cwd=root,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in range(count)
    ]


def test_any_number_of_processes_finds_the_same(tmp_path):
    expected = summaries(tmp_path / "one", process=0, count=1)
    # a file holds JSON's floats: the shortest text that gives the same float again
    worlds = {count: _world(tmp_path / str(count), count) for count in (2, 4)}
    try:
        for count, processes in worlds.items():
            for process, worker in enumerate(processes):
                _, errors = worker.communicate(timeout=120)
                assert worker.returncode == 0, errors
                path = tmp_path / str(count) / f"{process}.json"
                assert json.loads(path.read_text()) == expected
    finally:
        for worker in (*worlds[2], *worlds[4]):
            worker.kill()


if __name__ == "__main__":
    _work(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
