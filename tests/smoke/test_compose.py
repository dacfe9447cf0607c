"""Any selector with any network, task and round-based method, by configuration alone.

Labelling and the train step of every combination are traced (shapes, dtypes and
settings fit); each selector runs a whole round of each method on the tiny network.
"""

import functools

import jax
import jax.numpy as jnp
import pytest

from sfda_jax import commands, config
from sfda_jax.registry import list_names
from sfda_jax.train import dry_run
from sfda_jax.train.optim import make_optimizer
from sfda_jax.train.states import start_state
from sfda_jax.train.step import make_train_step
from sfda_jax.weights.layout import abstract_state
from tests.smoke.recipes import DEMO

_SIZE = (64, 128)
_METHODS = ("iast", "cbst")
_SELECTORS = list_names("selectors")
# Each architecture at its smallest; what is deep is traced once per block all the same.
_NETWORKS = {
    "tiny": {},
    "deeplab_v2": {"blocks": (1, 1, 1, 1)},
    "deeplab_v3_plus": {"blocks": (1, 1, 1, 1)},
    "segformer": {"variant": "b0", "channels": 256},
    "daformer": {"variant": "b0"},
    "wide_resnet38": {},
    "deeplab_v2_vgg": {},
}
_SMALLEST = "tiny"
_TASKS = ("cityscapes19", "synthia16", "camvid11")
# An untrained network is nowhere sure of itself, and probabilities are no densities.
_UNSURE = {
    "constant": {"threshold": 0.0},
    "density_threshold": {"quantile": 0.5},
    "instance_adaptive": {"theta0": 0.0},
}
_INFERENCE = {"size": _SIZE, "label_size": (), "enlarge": "logits", "flip": False}


def _settings(method, selector):
    common = {
        "batch_size": 2,
        "selector": {"name": selector, **_UNSURE.get(selector, {})},
        "inference": {**_INFERENCE, "batch_size": 2},
        "student_statistics": "batch",
    }
    if method == "iast":
        return {**common, "crop_size": _SIZE, "target_heights": (48, 64)}
    own = {"crop": "crst", "crop_size": _SIZE, "scale_range": (0.9, 1.1)}
    return {**common, **own, "source_portion": 0.0, "loss_size": "crop"}


def _recipe(method, selector, network="tiny", classes="cityscapes19", steps=1):
    """The demo's data and source stage, then one round of the method."""
    raw = config.load_config(DEMO).to_dict()
    raw["model"] = {"name": network, **_NETWORKS[network]}
    raw["task"] = {**raw["task"], "classes": classes, "headline": ""}
    raw["pipeline"] = ("adapt",)
    raw["data"] = {**raw["data"], "generated": True, "generated_size": _SIZE}
    raw["evaluation"] = {**raw["evaluation"], "size": _SIZE, "panels": 1}
    raw["parallel"] = {**raw["parallel"], "devices": 1}
    raw["stages"] = {
        "adapt": {
            "method": method,
            "init_from": "scratch",
            "settings": _settings(method, selector),
            "rounds": ({"num_steps": steps},),
        }
    }
    return config.ConfigDict(config.complete(raw)).lock()


def _batch(method):
    """Shapes of what the streams of a method give."""
    images = jax.ShapeDtypeStruct((2, *_SIZE, 3), jnp.uint8)
    labels = jax.ShapeDtypeStruct((2, *_SIZE), jnp.uint8)
    if method == "iast":
        return {"target": {"images": images, "labels": labels}}
    flags = {
        "valid": jax.ShapeDtypeStruct((2, *_SIZE), jnp.bool_),
        "is_target": jax.ShapeDtypeStruct((2,), jnp.bool_),
    }
    return {"mixed": {"images": images, "labels": labels, **flags}}


_CASES = [(network, _TASKS[0]) for network in _NETWORKS] + [
    (_SMALLEST, classes) for classes in _TASKS[1:]
]


@pytest.mark.parametrize("method", _METHODS)
@pytest.mark.parametrize(("network", "classes"), _CASES)
def test_every_network_and_task_is_traced(network, classes, method):
    recipe = config.build(_recipe(method, _SELECTORS[0], network, classes))
    built, settings = recipe.stages[0].at_round(0)
    student = abstract_state(recipe.model)
    images = jax.ShapeDtypeStruct((2, *_SIZE, 3), jnp.uint8)
    scores = built.inference.make_scores(recipe.model)
    probs = jax.eval_shape(scores, student.variables, images)
    assert probs.shape == (2, *_SIZE, recipe.task.classes.num_classes)
    for selector in _SELECTORS:
        chosen = config.build(_recipe(method, selector, _SMALLEST, classes))
        _trace_labels(chosen.stages[0].method.selector, probs)
    optimizer = make_optimizer(settings)
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(
        functools.partial(start_state, built, optimizer), student, key
    )
    step = make_train_step(built, optimizer)
    after, _ = jax.eval_shape(step, state, _batch(method), key)
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), (after, state))
    assert shapes[0] == shapes[1]


def _trace_labels(selector, probs):
    """The device part of labelling gives maps of the scores' size."""
    thresholds = selector.thresholds(selector.init(probs.shape[-1]))
    proposed = jax.eval_shape(selector.propose, probs, thresholds)
    assert proposed["labels"].shape == probs.shape[:3]
    if selector.num_measures:
        measured = jax.eval_shape(selector.measure, probs)
        assert all(x.shape[0] == probs.shape[0] for x in jax.tree.leaves(measured))


@pytest.mark.slow
@pytest.mark.parametrize("selector", _SELECTORS)
@pytest.mark.parametrize("method", _METHODS)
def test_every_selector_runs_in_every_method(method, selector, tmp_path):
    summary = commands.adapt(_recipe(method, selector), str(tmp_path))
    assert summary["target_mIoU"]["adapted"] >= 0


@pytest.mark.slow
@pytest.mark.parametrize("method", _METHODS)
def test_a_trial_does_not_mind_what_an_untrained_network_labels(method):
    recipe = config.build(_recipe(method, "constant"))
    (row,) = dry_run.compile_report(recipe)
    assert row["parameters"] > 0
