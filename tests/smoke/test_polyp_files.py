"""Polyps from files to report: prepared, adapted, scored with Dice."""

import json

import numpy as np
import pytest

from sfda_jax import commands, config
from tests.data.published_files import save
from tests.smoke.recipes import ROOT, small

pytestmark = pytest.mark.slow


def _collection(folder, count, seed):
    """Round bright spots on noise, `images/` and `masks/`, of several sizes."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        size = (48, 64) if number % 2 else (40, 50)
        rows, columns = np.mgrid[: size[0], : size[1]]
        centre = rng.integers(10, 30, 2)
        spot = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < 64
        image = rng.integers(0, 100, (*size, 3)) + 120 * spot[..., None]
        save(folder / "images" / f"{number}.png", image.astype(np.uint8))
        save(folder / "masks" / f"{number}.png", np.where(spot, 255, 0).astype("u1"))


def test_files_to_report(tmp_path):
    _collection(tmp_path / "ETIS-Larib", 4, 0)
    _collection(tmp_path / "EndoScene", 5, 1)
    path = str(ROOT / "configs" / "polyps.py")
    files = {
        "data.generated": "false",
        "data.data_dir": str(tmp_path / "prepared"),
        "data.manual_dirs.polyps": str(tmp_path),
        "stages.adapt.rounds": "({'num_steps': 1},)",
    }
    loaded = config.load_config(path, small(path) | files)
    summary = commands.adapt(loaded, str(tmp_path / "run"))
    assert summary["subset"] == "IoU_polyp"
    adapted = summary["dice"]["adapted"]
    iou = summary["per_class"]["adapted"]["polyp"]
    assert adapted["polyp"] == pytest.approx(100 * 2 * iou / (100 + iou))
    assert summary["mean_dice"]["adapted"]["mIoU2"] == pytest.approx(
        np.mean(list(adapted.values()))
    )
    assert summary["image_means"]["adapted"]["polyp"]["images"] == 5
    log = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    scored = [e for e in map(json.loads, log) if e.get("event") == "eval"]
    assert scored and all({"dice", "image_means"} <= set(entry) for entry in scored)
    page = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert "Means over images, %" in page and "polyp, Dice" in page
