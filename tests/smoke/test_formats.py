"""The published recipes on files of the datasets' own formats: source, then DT-ST."""

import pytest

from sfda_jax import commands, config
from tests.smoke.recipes import ROOT

pytestmark = pytest.mark.slow

_SMALL = {
    "pipeline": "('source', 'adapt')",
    "parallel.devices": "1",
    "model.stem_channels": "4",
    "model.planes": "(2, 4, 6, 8)",
    "model.blocks": "(1, 1, 2, 1)",
    "evaluation.every": "0",
    "evaluation.size": "(48, 96)",
    "evaluation.panels": "2",
    "log.every": "1",
    "stages.source.init_from": "scratch",
    "stages.source.rounds": "({'num_steps': 2},)",
    "stages.source.settings.size": "(48, 96)",
    "stages.source.settings.batch_size": "2",
    "stages.adapt.init_from": "previous",
    "stages.adapt.rounds": "({'num_steps': 2}, {'num_steps': 2})",
    "stages.adapt.settings.batch_size": "2",
    "stages.adapt.settings.full_size": "(48, 96)",
    "stages.adapt.settings.crop_size": "(32, 64)",
    "stages.adapt.settings.test_size": "(48, 96)",
    "stages.adapt.settings.candidate_size": "(48, 96)",
}


@pytest.mark.parametrize(
    ("recipe", "source", "headline", "extra"),
    [
        ("g2c", "gta5", "mIoU19", {}),
        (
            "s2c",
            "synthia",
            "mIoU16",
            {"stages.source.settings.crop_size": "(24, 48)"},
        ),
    ],
)
def test_two_steps(recipe, source, headline, extra, shared_data, tmp_path):
    formats = shared_data / "formats"
    overrides = {
        **_SMALL,
        **extra,
        "data.data_dir": str(tmp_path / "prepared"),
        "data.partial": "true",
        f"data.manual_dirs.{source}": str(formats / source),
        "data.manual_dirs.cityscapes": str(formats / "cityscapes"),
    }
    loaded = config.load_config(str(ROOT / "configs" / f"{recipe}.py"), overrides)
    summary = commands.adapt(loaded, str(tmp_path / "run"))
    assert summary["subset"] == headline
    assert set(summary["target_mIoU"]) == {"source_only", "adapted"}
    exported = tmp_path / "adapted.pth"
    commands.convert(loaded, str(tmp_path / "run"), out=str(exported))
    again = commands.evaluate(loaded, str(tmp_path / "run"), checkpoint=str(exported))
    assert 100 * again.scores.subsets[headline] == summary["target_mIoU"]["adapted"]
