"""The networks' benchmark runs what it names."""

import pytest

from sfda_jax.errors import ConfigError
from sfda_jax.train.network_bench import bench_networks


def test_rows(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
    rows = bench_networks(["segformer_b0"], size=(32, 64), num_steps=1)
    assert [row["pass"] for row in rows] == ["forward", "forward+backward"]
    assert all(row["step_median"] >= 0 and row["host_peak_gib"] > 0 for row in rows)


def test_unknown_network():
    with pytest.raises(ConfigError, match="Did you mean 'deeplab_v2'"):
        bench_networks(["deeplab_v22"])
