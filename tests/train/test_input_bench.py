import pytest

from sfda_jax import config
from sfda_jax.train import input_bench
from tests.smoke.recipes import ROOT

SMALL = {
    "data.generated_size": "(96, 192)",
    "stages.adapt.settings.full_size": "(96, 192)",
    "stages.adapt.settings.crop_size": "(64, 96)",
    "stages.adapt.settings.candidate_size": "(96, 192)",
    "stages.adapt.settings.batch_size": "2",
}


@pytest.fixture
def recipe():
    return config.build(config.load_config(str(ROOT / "configs/g2c.py"), SMALL))


def test_rows(recipe, monkeypatch):
    readers = (input_bench._Readers(name="1 thread", threads=1),)
    monkeypatch.setattr(input_bench, "_READERS", readers)
    decode, stream = input_bench.bench_input(recipe, images=12)
    assert decode["stream"] == "decode alone"
    assert decode["megabytes_per_image"] > 0.01
    assert stream["stream"] == "adapt/target"
    assert stream["readers"] == "1 thread"
    for name in ("images_per_second", "cpu_ms_per_image", "rss_last_mib"):
        assert stream[name] > 0, name
    assert stream["share_of_limit"] > 0


def test_labels_stand_in_for_predictions(recipe, tmp_path):
    classes = recipe.task.classes
    input_bench._write_set(tmp_path / "files", (96, 192), 6, classes)
    recipe = input_bench._on_folder(recipe, tmp_path)
    access, streams = input_bench._streams(recipe, 0, tmp_path, 6)
    spec = streams["target"]
    source = access.train("target")
    assert len(source) == 6
    assert "label" not in source[0]
    assert sum(map(len, spec.transform.class_files.values())) > 0
    assert len({source[i]["image"].tobytes() for i in range(6)}) == 6


def test_lookups_are_no_streams(tmp_path):
    changed = SMALL | {"stages.adapt.settings.mix_classes": "(0, 1)"}
    path = str(ROOT / "configs/g2c.py:snd")
    recipe = config.build(config.load_config(path, changed))
    input_bench._write_set(tmp_path / "files", (96, 192), 6, recipe.task.classes)
    recipe = input_bench._on_folder(recipe, tmp_path)
    _, streams = input_bench._streams(recipe, 1, tmp_path, 6)
    assert list(streams) == ["target"]
