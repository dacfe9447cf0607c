"""The benchmark of thresholds finds the same ones in every exact way."""

from sfda_jax.train.threshold_bench import VARIANTS, bench_thresholds


def test_rows(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
    limit = 2.5 * 32 * 64 * 5 / 2**30  # keeps two of the maps
    rows = bench_thresholds(3, size=(32, 64), num_classes=4, keep_limit_gib=limit)
    assert [row["variant"] for row in rows] == list(VARIANTS)
    *streamed, kept = rows
    for row in streamed:
        assert row["images"] == 3
        assert row["passes"] == 1 + (row["variant"] == "exact_radix")
        assert row["host_peak_gib"] >= row["host_start_gib"] > 0
        assert row["worst_error"] <= (2**-12 if row["variant"] == "hist" else 0)
    assert kept["images"] == 2 and kept["worst_error"] is None
