"""Which network of a run counts as the one before adaptation."""

import pytest

from sfda_jax import config
from sfda_jax.train import summary
from sfda_jax.types import ModelState
from tests.smoke.recipes import ROOT

CAMVID = str(ROOT / "configs" / "camvid_day2dusk.py")
GTA5 = str(ROOT / "configs" / "g2c_bismap.py")


@pytest.mark.parametrize(
    ("path", "overrides", "expected"),
    [
        (f"{CAMVID}:bismap", {}, "stage 0"),
        # what only prepares something leaves an untrained network as it is
        (f"{GTA5}:published", {}, "stage 1"),
        (f"{GTA5}:source_free", {}, "gta5_warmup_model.pkl"),
        (f"{CAMVID}:bismap", {"pipeline": "('shipped', 'tone')"}, "stage 1"),
        (
            f"{CAMVID}:bismap",
            {"pipeline": "('shipped', 'tone')", "stages.shipped.init_from": "x.pth"},
            "x.pth",
        ),
    ],
)
def test_first_network(monkeypatch, path, overrides, expected):
    recipe = config.build(config.load_config(path, overrides))

    def named(name):
        return ModelState(params=name, batch_stats={})

    monkeypatch.setattr(
        summary, "stage_network", lambda recipe, folder, index: named(f"stage {index}")
    )
    monkeypatch.setattr(summary, "load_network", lambda recipe, origin: named(origin))
    assert summary._first_network(recipe, ROOT).params == expected
