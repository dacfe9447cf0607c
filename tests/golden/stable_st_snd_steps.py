"""Recorded steps of SND and Stable-ST: labels, pixel weights, NFD, updates."""

import json

import jax
import jax.numpy as jnp
import numpy as np

from sfda_jax.methods.snd import Method
from sfda_jax.train.states import start_state
from sfda_jax.train.step import make_train_step
from sfda_jax.weights.convert import to_flax
from tests.golden.stable_st_networks import (
    check_network,
    model_of,
    nhwc,
    published_tree,
    recorded_optimizer,
    recorded_task,
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

    intervals, means = [], []
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
            if dtu.queried:
                means.append((bool(dtu.updated), dtu.mean_old, dtu.mean_new))
            intervals += [int(dtu.interval)] * bool(dtu.updated)
        if t == 0:
            check_network(data, "student_after_1", state.student, model)
    assert intervals == data["update_intervals"].tolist()
    # Scores are recorded at every question, or at the updates alone.
    recorded = np.stack([data["mean_old_score"], data["mean_new_score"]], 1)
    if len(recorded) < len(means):
        means = [row for row in means if row[0]]
    means = np.array([row[1:] for row in means]).reshape(-1, 2)
    np.testing.assert_allclose(means, recorded, rtol=1e-4)
    check_network(data, "student_final", state.student, model)
    check_network(data, "teacher_final", state.teacher, model)


def _method(model, hyper, data):
    images = data["batch0/full_images"]
    return Method(
        model=model,
        task=recorded_task(hyper["num_classes"]),
        batch_size=images.shape[0],
        full_size=images.shape[2:],
        crop_size=data["batch0/student_images"].shape[2:],
        mix_classes=(),
        ema_decay=hyper["ema"],
        dynamic=hyper["dynamic"],
        fixed_interval=hyper["fix_iteration"],
        score={"Soft_ND": "soft_nd", "NFD": "nfd", "ENT": "ent"}[hyper["metric"]],
        query_start=hyper["query_start"],
        query_step=hyper["query_step"],
        max_update=hyper["max_update"],
        threshold_beta=hyper["threshold_beta"],
        image_dtype="float32",
    )


def _batch(data, t):
    def images(name):
        return nhwc(data[f"batch{t}/{name}"].astype(np.float32))

    def integers(name):
        return jnp.asarray(data[f"batch{t}/{name}"], jnp.int32)

    return {
        "target": {
            "images": images("student_images"),
            "full_images": images("full_images"),
            "rescale_size": integers("rescale_size"),
            "crop_origin": integers("crop_y1x1"),
            "flip": jnp.asarray(data[f"batch{t}/flip"]),
            "mix_labels": jnp.asarray(data[f"batch{t}/mix_label"]),
        },
        "stable": {"images": images("val_images"), "labels": integers("val_label")},
    }


def _check_weights(weights, expected):
    close = np.abs(np.asarray(weights) - expected) <= 1e-2
    assert close.mean() >= 0.999, close.mean()


def _check_step(data, t, before, after, metrics):
    np.testing.assert_allclose(metrics["loss"], data["loss_pos"][t], rtol=1e-4)
    np.testing.assert_allclose(metrics["learning_rate"], data["lr"][t], rtol=1e-6)
    np.testing.assert_allclose(
        after.method.running_confidence, data["running_conf"][t], atol=1e-6, rtol=0
    )
    differs = jax.tree.map(
        lambda a, b: bool((a != b).any()), before.teacher.params, after.teacher.params
    )
    assert any(jax.tree.leaves(differs)) == data["teacher_updated"][t]


CHECKERS = {
    "train_steps_snd*.npz": check_train_steps,
    "train_steps_stable_st*.npz": check_train_steps,
}
