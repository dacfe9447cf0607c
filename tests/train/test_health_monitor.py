"""The health monitor: when it speaks, and what warn, stop and rollback then do."""

import contextlib
import json
import math
import signal

import jax
import numpy as np
import pytest

from sfda_jax import config
from sfda_jax.errors import ConfigError, TrainingError
from sfda_jax.evaluation import health as signals
from sfda_jax.train import health, loop, origins
from sfda_jax.train.health_record import format_health, health_record
from sfda_jax.train.interrupt import Interrupted
from sfda_jax.train.loggers import open_log
from sfda_jax.train.recipe import HealthSettings, Position, position_of
from sfda_jax.train.scoring import shown_examples
from sfda_jax.train.states import init_network
from sfda_jax.types import ModelState
from tests.train import round_recipe, toy_method

# An untrained network: nothing counts but what a test bounds.
LOOSE = {
    "every": 1,
    "max_vanished": 1.0,
    "min_classes": 0.0,
    "max_churn": 1.0,
    "max_drift": 1.0,
    "certain": 1000.0,
    "max_entropy": 1.0,
}
END = Position(0, 1, 1)


def make_recipe(**settings):
    given = {f"health.{k}": str(v) for k, v in {**LOOSE, **settings}.items()}
    return config.build(config.load_config(toy_method.__file__, given))


def lines(run_dir, event="health"):
    found = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return [{**line, "wall": 0} for line in found if line.get("event") == event]


def network(recipe, run_dir, position):
    return jax.device_get(origins.network_at(recipe, run_dir, position))


def seen(recipe, run_dir, position):
    """The classes' shares of a saved network, where the monitor looks."""
    source = loop.make_access(recipe).train("target")
    probs = signals.sampled_probs(
        recipe.model,
        network(recipe, run_dir, position).variables,
        source,
        positions=shown_examples(source, recipe.health.images),
        transform=recipe.evaluation.transform(),
    )
    return signals.measure(probs).as_record(recipe.task.classes.names)["shares"]


def assert_equal(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """A run that nobody warns, its recipe, and the drift at every look."""
    run_dir, recipe = tmp_path_factory.mktemp("watched"), make_recipe()
    loop.adapt(recipe, run_dir)
    return run_dir, recipe, [line["signals"]["drift"] for line in lines(run_dir)]


@pytest.fixture(scope="module")
def late(watched):
    """(look, bound): the first look whose drift is beyond the bound."""
    drift = watched[2]
    look = next(i for i in range(2, len(drift)) if drift[i] > max(drift[:i]))
    return look, (max(drift[:look]) + drift[look]) / 2


def test_looks_and_their_record(watched):
    run_dir, recipe, _ = watched
    found = lines(run_dir)
    places = [(line["round"], line["step"]) for line in found]
    assert places == [*((0, step) for step in range(5)), (1, 1)]
    assert found[0]["signals"]["churn"] is None and found[0]["signals"]["drift"] == 0
    assert all(line["signals"]["churn"] > 0 for line in found[1:])
    assert not any(line["warnings"] for line in found)
    assert found[-1]["signals"]["shares"] == seen(recipe, run_dir, END)
    record = health_record(run_dir)
    assert record == {"looks": 6, "unhealthy": {}, "signals": {}, "rollbacks": []}
    assert format_health(record) == []


def test_resumed_run_sees_the_same(watched, tmp_path, monkeypatch):
    whole, recipe, _ = watched
    for steps in (1, 3):

        def stop(steps=steps):
            return signal.SIGTERM if len(lines(tmp_path, None)) >= steps else 0

        with monkeypatch.context() as patch, pytest.raises(Interrupted):
            patch.setattr(loop, "stop_requests", lambda: contextlib.nullcontext(stop))
            loop.adapt(recipe, tmp_path)
    loop.adapt(recipe, tmp_path)
    assert lines(tmp_path) == lines(whole)
    assert_equal(network(recipe, tmp_path, END), network(recipe, whole, END))


def test_rollback_ends_the_stage_with_its_last_healthy_state(late, watched, tmp_path):
    look, bound = late
    recipe = make_recipe(action="rollback", max_drift=bound, patience=1)
    loop.adapt(recipe, tmp_path)
    found = lines(tmp_path)
    assert [len(line["warnings"]) for line in found] == [0] * look + [1]
    assert [line["signals"] for line in found] == [
        line["signals"] for line in lines(watched[0])[: look + 1]
    ]
    (warning,) = found[-1]["warnings"]
    assert (warning["signal"], warning["side"]) == ("drift", "above")
    assert warning["value"] > warning["bound"] == bound
    healthy = found[-2]
    assert seen(recipe, tmp_path, END) == healthy["signals"]["shares"]
    record = health_record(tmp_path)
    (row,) = record["rollbacks"]
    assert (row["to_round"], row["to_step"]) == (healthy["round"], healthy["step"])
    text = "\n".join(format_health(record))
    assert "adapt: 1 unhealthy look (drift)" in text
    assert f"as it was in round 1, step {row['to_step']}" in text
    # It is finished: nothing is left to do.
    loop.adapt(recipe, tmp_path)
    assert lines(tmp_path) == found


def test_stop_keeps_the_last_healthy_state(late, tmp_path):
    look, bound = late
    recipe = make_recipe(action="stop", max_drift=bound, patience=1)
    with pytest.raises(TrainingError) as error:
        loop.adapt(recipe, tmp_path)
    healthy = lines(tmp_path)[look - 1]
    place = Position(0, healthy["round"], healthy["step"])
    folder = tmp_path / "checkpoints"
    newest = max(int(path.name) for path in folder.iterdir())
    assert position_of(recipe, newest) == place
    assert seen(recipe, tmp_path, place) == healthy["signals"]["shares"]
    assert f"{folder / str(newest)}." in error.value.message
    drift = lines(tmp_path)[look]["signals"]["drift"]
    assert f"drift is {drift:.3g}" in error.value.message
    assert "stages.adapt.optimizer.learning_rate" in error.value.hint
    assert f"--checkpoint={folder / str(newest)}" in error.value.hint


def test_nothing_healthy_was_saved(tmp_path):
    recipe = make_recipe(action="rollback", max_entropy=0.0, patience=1)
    loop.adapt(recipe, tmp_path)
    assert len(lines(tmp_path)) == 2
    start = lines(tmp_path)[0]["signals"]["shares"]
    assert seen(recipe, tmp_path, END) == start
    (row,) = health_record(tmp_path)["rollbacks"]
    assert (row["to_round"], row["to_step"]) == (0, 0)


def test_every_process_decides_as_the_first(tmp_path, monkeypatch):
    recipe = make_recipe(action="stop", max_drift=0.0)
    network, sent = init_network(recipe), []
    moved = network.replace(params=jax.tree.map(lambda x: -x, network.params))

    def sees(networks, run_dir):
        access = loop.make_access(recipe)
        collapses = pytest.raises(health.Collapse)
        with open_log(tmp_path, resumed_at=-1) as log, collapses as error:
            monitor = health.HealthMonitor(
                recipe, run_dir, start=Position(), access=access, log=log
            )
            monitor.begin(Position(), networks[0])
            assert not monitor.allows(networks[1])
            assert not monitor.look(Position(0, 0, 1), networks[1], final=False)
            monitor.look(Position(0, 0, 2), networks[1], final=False)
        return str(error.value), lines(tmp_path)

    def send(values):
        sent.append(values)
        return values

    monkeypatch.setattr(health.processes, "total", send)
    first = sees((network, moved), tmp_path / "first")
    received = iter(sent)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(health.processes, "total", lambda zeros: zeros + next(received))
    nothing = ModelState(params=None, batch_stats=None)
    assert sees((nothing, nothing), tmp_path / "second") == first
    assert not (tmp_path / "second").exists()


def make_signals(**values):
    given = {
        "entropy": 0.2,
        "effective_classes": 5.0,
        "vanished": 0.0,
        "churn": 0.05,
        "drift": 0.0,
        "soft_nd": 4.0,
        "ent": 0.6,
        "shares": np.full(4, 0.25),
    }
    return signals.Signals(**{**given, **values})


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, []),
        ({"vanished": 0.3}, []),
        ({"vanished": 0.4}, ["vanished"]),
        ({"effective_classes": 2.9}, ["effective_classes"]),
        ({"effective_classes": 3.1}, []),
        ({"effective_classes": 11.0}, []),
        ({"churn": 0.51}, ["churn"]),
        ({"churn": None}, []),
        ({"drift": 0.45, "entropy": 0.15}, []),  # a poor start left behind
        ({"drift": 0.31, "entropy": 0.1}, ["drift"]),
        ({"entropy": 0.71}, ["entropy"]),
        ({"entropy": math.nan}, ["entropy"]),
        (
            {"vanished": 1.0, "effective_classes": 1.0},
            ["vanished", "effective_classes"],
        ),
    ],
)
def test_bounds(values, expected):
    found = health.judge(make_signals(**values), make_signals(), HealthSettings())
    assert [finding.signal for finding in found] == expected


def test_which_stages_are_watched():
    recipe = config.build(config.load_config(round_recipe.__file__))
    source, cbst, iast = recipe.stages
    often = HealthSettings(every=4)
    assert not health.is_watched(source, often)
    assert health.is_watched(cbst, often)
    assert not health.is_watched(iast, often)  # three steps: never a look
    assert health.is_watched(iast, HealthSettings(every=4, action="stop"))
    assert not health.is_watched(cbst, HealthSettings(every=0, action="stop"))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("action", "stopt", "Did you mean 'stop'"),
        ("every", -1, "every >= 0"),
        ("patience", 0, "patience >= 1"),
        ("images", 0, "images >= 1"),
    ],
)
def test_refused_settings(key, value, message):
    with pytest.raises(ConfigError, match=message):
        make_recipe(**{key: value})
