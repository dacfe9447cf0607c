"""A sequence of domains: which splits are scored, what is forgotten."""

import contextlib
import json
import signal

import pytest

from sfda_jax import commands, config
from sfda_jax.errors import ConfigError, DataError
from sfda_jax.train import continual, domains, dry_run, interrupt, loop
from sfda_jax.train.scoring import stage_label

SIZE = (24, 48)


def recipe_config(*, pipeline=None, source=True, evaluation=None, **stages):
    """A recipe of AdaBN stages; `stages` are name → target."""
    scenes = {"dataset": "scenes", "variant": "weather-24x48-4"}
    day = {"train": "day_train", "eval": "day_test"}
    haze = {"train": "haze_train", "eval": "haze_test"}
    adapting = {
        name: {
            "method": "adabn",
            "target": target,
            "settings": {"size": SIZE, "batch_size": 4, **settings},
            "rounds": ({"num_steps": 0},),
        }
        for name, (target, settings) in stages.items()
    }
    trained = {
        "source": {
            "method": "source_only",
            "settings": {"size": SIZE, "batch_size": 4},
            "rounds": ({"num_steps": 1},),
        }
    }
    return {
        "name": "sequence",
        "task": {
            "name": "day_to_haze",
            "classes": "cityscapes19",
            "headline": "mIoU19",
            "source": {**scenes, **day},
            "target": {**scenes, **haze},
        },
        "model": {"name": "tiny", "width": 8},
        "parallel": {"devices": 1},
        "evaluation": {"size": SIZE, "panels": 1, **(evaluation or {})},
        "pipeline": pipeline or (*(("source",) if source else ()), *adapting),
        "stages": {**(trained if source else {}), **adapting},
    }


HAZE = ({}, {"gamma": 0.9})
DUSK = ({"train": "dusk_train", "eval": "dusk_test"}, {"gamma": 0.5})
DAY = ({"train": "day2_train", "eval": "day_test"}, {})


def built(**changes):
    return config.build(config.ConfigDict(config.complete(recipe_config(**changes))))


def names(recipe, index, *, source_open=False):
    found = domains.scored_splits(recipe, index, source_open=source_open)
    return {name: (split.title, split.gamma) for name, split in found.items()}


def test_every_domain_seen_before_is_scored():
    recipe = built(haze=HAZE, dusk=DUSK, day=DAY)
    assert domains.is_continual(recipe)
    # The source network is scored on all that will come, without anyone's tone curve.
    assert names(recipe, 0, source_open=True) == {
        "target": ("haze_test", 1.0),
        "source": ("day_test", 1.0),
        "dusk_test": ("dusk_test", 1.0),
    }
    assert names(recipe, 1) == {
        "target": ("haze_test", 0.9),
        "source": ("day_test", 1.0),
    }
    assert names(recipe, 2) == {
        "target": ("dusk_test", 0.5),
        "haze_test": ("haze_test", 0.9),
        "source": ("day_test", 1.0),
    }
    # The source's split is this stage's own target: one column.
    assert names(recipe, 3) == {
        "target": ("day_test", 1.0),
        "dusk_test": ("dusk_test", 0.5),
        "haze_test": ("haze_test", 0.9),
    }
    assert list(domains.split_titles(recipe).values()) == [
        *("day_test", "haze_test", "dusk_test"),
    ]
    labels = [stage_label(recipe, index) for index in range(4)]
    assert labels == ["source_only", "haze", "dusk", "adapted"]


def test_the_newest_stage_of_a_domain_sets_its_tone_curve():
    recipe = built(haze=HAZE, dusk=DUSK, again=({}, {"gamma": 0.7}))
    assert names(recipe, 2)["haze_test"] == ("haze_test", 0.9)
    assert names(recipe, 3)["target"] == ("haze_test", 0.7)


def test_ordinary_runs_score_the_source_while_it_is_open():
    recipe = built(haze=HAZE)
    assert not domains.is_continual(recipe)
    assert list(names(recipe, 1)) == ["target"]
    assert list(names(recipe, 0, source_open=True)) == ["target", "source"]
    assert stage_label(recipe, 0) == "source_only"
    always = built(haze=HAZE, evaluation={"source": True})
    assert list(names(always, 1)) == ["target", "source"]


def test_a_source_that_is_only_scored():
    assert built(source=False, haze=HAZE, dusk=DUSK).task.source is None
    recipe = built(source=False, haze=HAZE, dusk=DUSK, evaluation={"source": True})
    assert recipe.task.source.eval == "day_test"
    assert all(stage.task.source is not None for stage in recipe.stages)
    assert list(names(recipe, 0)) == ["target", "source", "dusk_test"]


def test_splits_of_one_name_are_told_apart():
    bdd = ({"dataset": "bdd100k", "train": "train", "eval": "val", "variant": ""}, {})
    gta = ({"dataset": "gta5", "train": "train", "eval": "val", "variant": ""}, {})
    small = ({"variant": "weather-12x24-4"}, {})
    recipe = built(haze=HAZE, bdd=bdd, gta=gta, small=small)
    assert list(domains.split_titles(recipe).values()) == [
        "day_test",
        "scenes weather-24x48-4 haze_test",
        "bdd100k val",
        "gta5 val",
        "scenes weather-12x24-4 haze_test",
    ]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"trane": "dusk_train"}, r"dusk\.target\.trane.*train"),
        ({"train": 3}, r"dusk\.target\.train is 3 .*expected str"),
        ("dusk", r"dusk\.target is 'dusk' .*expected a mapping"),
    ],
)
def test_mistakes_are_named(target, message):
    with pytest.raises(ConfigError, match=message):
        built(haze=HAZE, dusk=(target, {}))


def test_overrides_may_name_what_the_recipe_does_not(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(recipe_config(haze=HAZE, dusk=DUSK)))
    key = "stages.haze.target"
    loaded = config.from_json(path, {f"{key}.train_list": "some.txt"})
    assert loaded.stages.haze.target.to_dict() == {"train_list": "some.txt"}
    (_, haze, dusk) = config.build(loaded).stages
    assert haze.task.target.train_list == "some.txt"
    assert (haze.task.target.eval, dusk.task.target.eval) == ("haze_test", "dusk_test")
    with pytest.raises(ConfigError, match="variant"):
        config.from_json(path, {f"{key}.varyant": "x"})


def test_unknown_split_stops_before_anything_is_trained(tmp_path):
    wrong = ({"train": "dusk_train", "eval": "dsk_test"}, {})
    recipe = built(haze=HAZE, dusk=wrong)
    with pytest.raises(DataError, match=r"no split 'dsk_test'.*dusk_test"):
        loop.adapt(recipe, tmp_path)
    assert not (tmp_path / "checkpoints").exists()


def test_label_maps_are_not_of_another_domain():
    recipe = recipe_config(haze=HAZE, dusk=DUSK)
    recipe["stages"]["haze"] = {
        **recipe["stages"]["haze"],
        "method": "snd",
        "settings": {},
        "rounds": ({"num_steps": 1},),
    }
    recipe["stages"]["dusk"] = {
        **recipe["stages"]["haze"],
        "target": DUSK[0],
        "settings": {"sets_from": "stage:haze"},
    }
    with pytest.raises(ConfigError, match=r"'dusk' reads .*'stage:haze'.*another"):
        config.build(config.ConfigDict(config.complete(recipe)))


def table(split, value):
    return {"split": split, "mIoU": {"mIoU19": value}}


def test_matrix_and_forgetting():
    recipe = built(haze=HAZE, dusk=DUSK, back=HAZE)
    day, haze, dusk = "day_test", "haze_test", "dusk_test"
    records = [
        {
            "target": table(haze, 20.0),
            "source": table(day, 60.0),
            "others": {dusk: table(dusk, 10.0)},
        },
        {"target": table(haze, 50.0), "source": table(day, 62.0)},
        {
            "target": table(dusk, 30.0),
            "source": table(day, 40.0),
            "others": {haze: table(haze, 35.0)},
        },
        {
            "target": table(haze, 48.0),
            "source": table(day, 57.0),
            "others": {dusk: table(dusk, None)},
        },
    ]
    found = continual.continual_record(recipe, records, None)
    assert found["domains"] == [day, haze, dusk]
    assert [row["adapts_to"] for row in found["stages"]] == [None, haze, dusk, haze]
    assert found["mIoU"][1] == [62.0, 50.0, None]
    assert found["mIoU"][2] == [40.0, 35.0, 30.0]
    assert found["forgetting"] == {day: 5.0, haze: 2.0, dusk: None}
    assert found["mean_forgetting"] == 5.0  # of day: haze is the last stage's own
    assert found["mean"] == 52.5
    text = continual.format_continual(found, "mIoU19").splitlines()
    assert text[0].split() == ["mIoU19", "after", day, haze, dusk]
    assert text[2].split() == ["haze", "62.00", "50.00", "-"]
    assert text[5].split() == ["forgetting", "+5.00", "+2.00", "-"]
    assert "mean forgetting +5.00" in text[6] and "all domains 52.50" in text[6]


def test_a_run_over_three_domains(tmp_path, monkeypatch):
    """Everything a run leaves knows of all domains, however often it is stopped."""
    changes = {"haze": HAZE, "dusk": DUSK, "day": DAY}
    loaded = config.ConfigDict(config.complete(recipe_config(**changes)))
    loaded.data.data_dir = str(tmp_path / "data")
    folder = tmp_path / "run"
    summary = commands.adapt(loaded, str(folder))
    environment = json.loads((folder / "environment.json").read_text())
    assert list(environment["lists"]) == [
        *("source", "target of haze", "target of dusk", "target of day"),
    ]
    assert environment["lists"]["target of day"]["split"] == "day2_train"
    assert list(environment["datasets"]) == ["scenes"]
    # One column is compared: of the domain that was adapted to last.
    assert summary["target_split"] == "day_test"
    assert list(summary["target_mIoU"]) == ["source_only", "haze", "dusk", "adapted"]
    last = summary["continual"]["mIoU"][-1]
    assert summary["target_mIoU"]["adapted"] == last[0]
    for row, stage, column in ((1, "haze", 1), (2, "dusk", 2), (3, "day", 0)):
        result = commands.evaluate(loaded, str(folder), stage=stage)
        score = summary["continual"]["mIoU"][row][column]
        assert 100 * result.scores.subsets["mIoU19"] == pytest.approx(score)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    scored = [(r["stage"], r["split"]) for r in map(json.loads, lines) if "split" in r]
    assert scored.count(("day", "dusk_test")) == 1
    assert ("haze", "dusk_test") not in scored
    text = (folder / "report.html").read_text()
    assert "Domains one after the other" in text and "Mean forgetting" in text
    plan = dry_run.plan(config.build(loaded))
    assert "source: scenes day_train (4 images, labelled), day_test (1" in plan
    assert "target of day: scenes day2_train (4 images, no labels)" in plan

    asked = []

    @contextlib.contextmanager
    def stop_requests():
        # While statistics are estimated, of dusk first and then of the second day.
        yield lambda: asked.append(1) or signal.SIGTERM * (len(asked) in (3, 5))

    monkeypatch.setattr(loop, "stop_requests", stop_requests)
    for _ in range(2):
        with pytest.raises(interrupt.Interrupted):
            commands.adapt(loaded, str(tmp_path / "pieces"))
    resumed = commands.adapt(loaded, str(tmp_path / "pieces"))
    assert resumed["continual"] == summary["continual"]
    assert resumed["lists"] == summary["lists"]
