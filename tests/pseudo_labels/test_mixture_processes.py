"""Mixtures and seeds of two real processes, each with a part of the rows."""

import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np

from sfda_jax.pseudo_labels.kmeans import seed_centres
from sfda_jax.pseudo_labels.mixture_fit import MixtureSettings, fit_classes
from sfda_jax.pseudo_labels.placed_rows import place_rows

ROWS = (130, 90, 3)  # the last class lies in one process's images alone


def pools(first: bool, last: bool) -> list[np.ndarray]:
    """Each class's rows, or what one of two processes holds of them."""
    rng = np.random.default_rng(0)
    found = []
    for count in ROWS:
        x = rng.normal(rng.normal(0, 4, (count, 1)), 1, (count, 5)).astype(np.float32)
        cut = count // 3 if count > 3 else 0
        found.append(x[0 if first else cut : None if last else cut])
    return found


def fitted(rows: list[np.ndarray], path: pathlib.Path) -> None:
    devices = jax.local_devices()[:1]
    settings = MixtureSettings(components=2, restarts=4, chunk=32)
    mixtures, _ = fit_classes(
        rows, settings=settings, rng=np.random.default_rng(0), devices=devices
    )
    placed = place_rows(rows[0], chunk=32, devices=devices)
    seeds = seed_centres(placed, 4, np.random.default_rng(1))
    np.savez(path, *jax.tree.leaves(mixtures), seeds=seeds)


def _work(address: str, process: int, folder: str) -> None:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(address, num_processes=2, process_id=process)
    own = pools(first=process == 0, last=process == 1)
    fitted(own, pathlib.Path(folder) / f"{process}.npz")


def test_two_processes_find_the_same(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    root = str(pathlib.Path(__file__).parents[2])
    environment = {**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    environment["PYTHONPATH"] = root
    module = "tests.pseudo_labels.test_mixture_processes"
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", module, address, str(process), str(tmp_path)],
            env=environment,
            cwd=root,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in range(2)
    ]
    try:
        fitted(pools(first=True, last=True), tmp_path / "one.npz")
        for worker in workers:
            _, errors = worker.communicate(timeout=240)
            assert worker.returncode == 0, errors
    finally:
        for worker in workers:
            worker.kill()
    one, first, second = (
        np.load(tmp_path / f"{name}.npz") for name in ("one", "0", "1")
    )
    for name in one.files:
        np.testing.assert_array_equal(first[name], second[name])
        np.testing.assert_allclose(first[name], one[name], rtol=1e-3, atol=1e-5)


if __name__ == "__main__":
    _work(sys.argv[1], int(sys.argv[2]), sys.argv[3])
