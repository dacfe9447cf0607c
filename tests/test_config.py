"""Recipes are complete, typed, and refused with the closest match."""

import json

import pytest

from sfda_jax import config
from sfda_jax.errors import ConfigError
from tests.smoke.recipes import RECIPES, ROOT

DEMO = str(ROOT / "configs" / "demo.py")


@pytest.mark.parametrize("path", RECIPES)
def test_every_recipe_builds(path):
    recipe = config.build(config.load_config(path))
    assert recipe.stages


def test_defaults_are_filled_in_and_survive_json(tmp_path):
    loaded = config.load_config(DEMO)
    assert loaded.stages.dtst.settings.threshold_floor == 0.2
    path = tmp_path / "config.json"
    path.write_text(json.dumps(loaded.to_dict()))
    assert config.from_json(path).to_dict() == loaded.to_dict()


def test_overrides_are_typed():
    loaded = config.load_config(
        DEMO,
        {
            "seed": "3",
            "stages.dtst.settings.ema_decay": "0.5",
            "stages.dtst.settings.dynamic": "false",
            "stages.dtst.settings.crop_size": "(32, 64)",
            "stages.source.rounds[0].num_steps": "7",
            "data.manual_dirs.camvid": "some where/ça",
            "log.every": "5",
        },
    )
    assert loaded.seed == 3
    assert loaded.stages.dtst.settings.ema_decay == 0.5
    assert loaded.stages.dtst.settings.dynamic is False
    assert loaded.stages.dtst.settings.crop_size == (32, 64)
    assert loaded.stages.source.rounds[0]["num_steps"] == 7
    assert loaded.data.manual_dirs.camvid == "some where/ça"


@pytest.mark.parametrize(
    ("key", "text", "says"),
    [
        ("stages.dtst.settings.ema_decya", "0.9", "ema_decay"),
        ("stages.dtts.method", "dtst", "dtst"),
        ("sede", "1", "seed"),
        ("stages.source.rounds[9].num_steps", "1", "rounds"),
        ("seed", "1.5", "expected int"),
        ("seed", "one", "expected int"),
        ("stages.dtst.settings.crop_size", "64", "expected tuple"),
        ("stages.dtst.settings.crop_size", "(64, 'x')", "expected int"),
        ("stages.dtst.settings.dynamic", "yes", "true or false"),
        ("stages.dtst.method", "dtts", "dtst"),
        ("model.name", "tinny", "tiny"),
        ("task.classes", "cityscapes91", "cityscapes19"),
        ("task.headline", "mIoU91", "mIoU19"),
        ("parallel.mode", "jti", "jit"),
        ("stages.dtst.network", "techer", "teacher"),
        ("stages.dtst.optimizer.name", "sdg", "sgd"),
    ],
)
def test_mistakes_are_named(key, text, says):
    with pytest.raises(ConfigError) as caught:
        config.build(config.load_config(DEMO, {key: text}))
    assert says in str(caught.value)


def test_missing_recipe_lists_what_is_there():
    with pytest.raises(ConfigError, match=r"demo\.py"):
        config.load_config("configs/dmeo.py")


_VARIED = """
from ml_collections import ConfigDict

VARIANTS = ("plain", "strong")


def get_config(variant):
    return ConfigDict(
        {
            "name": "mine",
            "task": {
                "name": "game_to_real",
                "classes": "cityscapes19",
                "target": {"dataset": "procedural", "train": "real_train"},
            },
            "model": {"name": "tiny", "width": {"plain": 8, "strong": 16}[variant]},
            "pipeline": (),
            "stages": {},
            "evaluation": {"size": (32, 64)},
        }
    )
"""


@pytest.fixture
def varied(tmp_path):
    """A recipe with variants, in a folder whose name has a colon."""
    path = tmp_path / "a:b" / "mine.py"
    path.parent.mkdir()
    path.write_text(_VARIED)
    return str(path)


@pytest.mark.parametrize(
    ("suffix", "name", "width"),
    [("", "mine", 8), (":plain", "mine", 8), (":strong", "mine_strong", 16)],
)
def test_variants(varied, suffix, name, width):
    loaded = config.load_config(varied + suffix)
    assert (loaded.name, loaded.model.width) == (name, width)
    assert config.load_config(varied + suffix, {"name": "other"}).name == "other"


@pytest.mark.parametrize("suffix", [":strnog", ":", ":weak"])
def test_unknown_variant_lists_what_is_there(varied, suffix):
    with pytest.raises(ConfigError) as caught:
        config.load_config(varied + suffix)
    assert "plain, strong" in caught.value.hint
    assert ("Did you mean 'strong'" in caught.value.message) == (suffix == ":strnog")


def test_variant_of_a_recipe_without():
    assert config.variants(DEMO) == ()
    with pytest.raises(ConfigError, match="no variants") as caught:
        config.load_config(f"{DEMO}:fast")
    assert caught.value.hint == f"--config={DEMO}"


def test_variant_of_a_missing_recipe():
    with pytest.raises(ConfigError, match=r"Did you mean 'configs/demo\.py'"):
        config.load_config("configs/dmeo.py:fast")


def test_every_run_directory_is_its_own():
    names = [config.load_config(path).name for path in RECIPES]
    assert len(set(names)) == len(names)


def test_source_after_adaptation_is_refused():
    stages = {"pipeline": "('source', 'adabn', 'source')"}
    with pytest.raises(ConfigError, match="source_free"):
        config.build(config.load_config(DEMO, stages))
    config.build(config.load_config(DEMO, {**stages, "task.source_free": "false"}))


@pytest.mark.parametrize(
    ("origin", "message"),
    [
        ("stage:wramup", "no stage 'wramup'. Did you mean 'warmup'"),
        ("stage:adapt", "comes later"),
        ("warmup", "sets_from"),
    ],
)
def test_label_maps_are_of_an_earlier_stage(origin, message):
    recipe = DEMO.replace("demo.py", "g2c.py:snd")
    config.build(config.load_config(recipe))
    changed = {"stages.adapt.settings.sets_from": origin}
    with pytest.raises(ConfigError, match=message):
        config.build(config.load_config(recipe, changed))
