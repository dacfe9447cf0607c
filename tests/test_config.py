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


def test_source_after_adaptation_is_refused():
    stages = {"pipeline": "('source', 'adabn', 'source')"}
    with pytest.raises(ConfigError, match="source_free"):
        config.build(config.load_config(DEMO, stages))
    config.build(config.load_config(DEMO, {**stages, "task.source_free": "false"}))
