"""The benchmark of mixtures: ours and scikit-learn's end at the same density."""

import importlib.util

import pytest

from sfda_jax.errors import ConfigError
from sfda_jax.train.mixture_bench import bench_mixtures, make_rows


def test_rows(monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
    rows = bench_mixtures(900, num_classes=2, components=3, num_dims=12, num_steps=4)
    assert [row["variant"] for row in rows] == ["sfda_jax", "scikit-learn"]
    for row in rows:
        assert row["rows"] == 900 and row["worst_difference"] < 1e-5
        assert row["host_peak_gib"] >= row["host_start_gib"] > 0
        assert row["fit_seconds"] >= 0 and row["slower"] >= 1
    assert rows[0]["score"] == pytest.approx(rows[1]["score"], rel=1e-5)


def test_classes_differ_and_have_dead_dimensions():
    first, second = (make_rows(index, 50, (2, 64)) for index in range(2))
    assert (first != second).any()
    assert (first >= 0).all() and (first == 0).all(0).any()


def test_needs_scikit_learn(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install scikit-learn"):
        bench_mixtures(10)
