"""What is logged and drawn of a round's pseudo-labels."""

import json

import numpy as np
import pytest
from PIL import Image

from sfda_jax import config
from sfda_jax.train.loggers import open_log
from sfda_jax.train.loop import make_access
from sfda_jax.train.recipe import Position
from sfda_jax.train.round_context import round_dir, round_store
from sfda_jax.train.scoring import Scorer
from tests.smoke.recipes import DEMO, small
from tests.train import round_recipe


@pytest.fixture(scope="module")
def recipe():
    return config.build(config.load_config(round_recipe.__file__))


def score(recipe, run_dir, position):
    access = make_access(recipe)
    store = round_store(run_dir, recipe, position.stage, position.round)
    with open_log(run_dir, resumed_at=-1) as log:
        scorer = Scorer(recipe=recipe, run_dir=run_dir, log=log)
        scorer.score_pseudo_labels(store, position, access)
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def write_labels(recipe, run_dir, stage, round_, *, name, keep):
    """Labels that are right, of every `keep`-th column."""
    store = round_store(run_dir, recipe, stage, round_)
    source = make_access(recipe).target_train_report()
    for index in range(len(source)):
        record = source[index]
        label = record["label"].copy()
        kept = np.arange(label.shape[1]) % keep == 0
        store.write(name, record["id"], np.where(kept, label, np.uint8(255)))
    classes = recipe.task.classes.num_classes
    store.finish({"thresholds": np.linspace(0.1, 1, classes), "ids": []})


def test_round(recipe, tmp_path):
    write_labels(recipe, tmp_path, 1, 0, name="labels", keep=4)
    write_labels(recipe, tmp_path, 1, 1, name="labels", keep=2)
    sizes = []
    for round_, coverage in enumerate((25, 50)):
        (line,) = score(recipe, tmp_path, Position(1, round_))
        assert (line["event"], line["stage"]) == ("pseudo_labels", "cbst")
        assert line["round"] == round_ and line["accuracy"] == 100
        assert line["coverage"] == pytest.approx(coverage, abs=2)
        assert line["thresholds"]["road"] == 0.1 and len(line["thresholds"]) == 19
        path = round_dir(tmp_path, recipe, 1, round_) / "panels.png"
        with Image.open(path) as picture:
            sizes.append(picture.size)
    # the second also shows what has changed
    assert sizes[1][0] == sizes[0][0] + 320 + 10


def test_nothing_to_say(recipe, tmp_path):
    assert score(recipe, tmp_path, Position(0, 0)) == []  # no labels are made
    write_labels(recipe, tmp_path, 1, 0, name="labels", keep=4)
    assert score(recipe, tmp_path, Position(1, 0, 2)) == []  # said when it began
    write_labels(recipe, tmp_path, 1, 1, name="others", keep=4)
    assert score(recipe, tmp_path, Position(1, 1)) == []


def test_the_method_names_its_maps(tmp_path):
    recipe = config.build(config.load_config(DEMO, small(DEMO)))
    stage = [stage.name for stage in recipe.stages].index("dtst")
    write_labels(recipe, tmp_path, stage, 0, name="candidates", keep=4)
    (line,) = score(recipe, tmp_path, Position(stage, 0))
    assert line["coverage"] == pytest.approx(25, abs=2)
