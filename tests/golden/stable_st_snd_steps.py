"""Recorded steps of SND and Stable-ST: labels, pixel weights, NFD, updates."""

import json

import jax
import numpy as np

from sfda_jax.methods.snd import Method
from sfda_jax.train.states import start_state
from sfda_jax.train.step import make_train_step
from sfda_jax.weights.convert import to_flax
from tests.golden.stable_st_networks import (
    check_network,
    model_of,
    published_tree,
    recorded_optimizer,
)
from tests.golden.stable_st_steps import (
    Updates,
    check_rate_and_prior,
    recorded_images,
    recorded_integers,
    recorded_settings,
    recorded_target,
)

SYSTEM = "stable_st"


def check_train_steps(path):
    data = np.load(path)
    hyper = json.loads(str(data["hyper"]))
    tree = published_tree(data, "init/")
    model = model_of(tree)
    method = _method(model, hyper, data)
    optimizer = recorded_optimizer(hyper)
    key = jax.random.key(0)
    state = start_state(method, optimizer, to_flax(tree, model), key)
    step = jax.jit(make_train_step(method, optimizer))

    @jax.jit
    def annotate(state, batch):
        state, targets = method.annotate(state, batch, key)
        return targets.labels, method.pixel_weights(state, batch, targets)[0]

    updates = Updates()
    for t in range(int(data["T"])):
        batch = _batch(data, t)
        labels, weights = annotate(state, batch)
        np.testing.assert_array_equal(labels, data["merged_pseudo_label"][t])
        _check_weights(weights, data["snd_w"][t])
        before = state
        state, metrics = step(state, batch, key)
        _check_step(data, t, before, state, metrics)
        dtu = state.method.dtu
        if dtu is not None:
            place = int(before.method.dtu.count)
            neighbours = dtu.inputs["neighbours"][place]
            np.testing.assert_array_equal(neighbours, data["neighbor"][t])
            stored = int(method.rule.stored(dtu.count))
            assert stored == data["buffer_len_after"][t]
            updates.note(dtu)
        if t == 0:
            check_network(data, "student_after_1", state.student, model)
    updates.check(data)
    check_network(data, "student_final", state.student, model)
    check_network(data, "teacher_final", state.teacher, model)


def _method(model, hyper, data):
    score = {"Soft_ND": "soft_nd", "NFD": "nfd", "ENT": "ent"}[hyper["metric"]]
    return Method(model=model, score=score, **recorded_settings(data, hyper))


def _batch(data, t):
    return {
        "target": recorded_target(data, t),
        "stable": {
            "images": recorded_images(data, t, "val_images"),
            "labels": recorded_integers(data, t, "val_label"),
        },
    }


def _check_weights(weights, expected):
    close = np.abs(np.asarray(weights) - expected) <= 1e-2
    assert close.mean() >= 0.999, close.mean()


def _check_step(data, t, before, after, metrics):
    np.testing.assert_allclose(metrics["loss"], data["loss_pos"][t], rtol=1e-4)
    check_rate_and_prior(data, t, after, metrics)
    differs = jax.tree.map(
        lambda a, b: bool((a != b).any()), before.teacher.params, after.teacher.params
    )
    assert any(jax.tree.leaves(differs)) == data["teacher_updated"][t]


CHECKERS = {
    "train_steps_snd*.npz": check_train_steps,
    "train_steps_stable_st*.npz": check_train_steps,
}
