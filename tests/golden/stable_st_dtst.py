"""Recorded cases of DT-ST: schedule, EMA, labels, warp, losses, DTU, TCR, steps."""

import contextlib
import json
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import io_callback

from sfda_jax import student_scores, teachers
from sfda_jax.losses.cross_entropy import mean_cross_entropy
from sfda_jax.losses.negative_learning import negative_classes, negative_learning
from sfda_jax.methods.dtst import Method
from sfda_jax.ops.warp import full_to_weak
from sfda_jax.pseudo_labels import candidates, ranking, running_confidence
from sfda_jax.train.optim import OptimizerSettings, make_schedule
from sfda_jax.train.states import start_state
from sfda_jax.train.step import make_train_step
from sfda_jax.types import IGNORE, ModelState
from sfda_jax.weights.convert import to_flax
from tests.golden.stable_st_networks import (
    check_network,
    model_of,
    nhwc,
    published_tree,
    recorded_optimizer,
)
from tests.golden.stable_st_steps import (
    Updates,
    check_rate_and_prior,
    recorded_settings,
    recorded_target,
)

SYSTEM = "stable_st"


def _labels(x):
    return jnp.asarray(x, jnp.int32)


def check_lr_poly(path):
    data = np.load(path)
    for i in range(int(data["n"])):
        rate, steps, power = data[f"{i}/base_lr_max_iter_power"].tolist()
        schedule = make_schedule(
            OptimizerSettings(learning_rate=rate, max_steps=int(steps), power=power)
        )
        rates = jax.jit(schedule)(_labels(data[f"{i}/iters"]))
        np.testing.assert_allclose(rates, data[f"{i}/lr"], rtol=1e-6)


def check_ema(path):
    data = np.load(path)
    teacher = ModelState({"w": jnp.asarray(data["teacher0"])}, {})
    for student, expected in zip(data["student"], data["teacher"], strict=True):
        teacher = teachers.ema(
            teacher,
            ModelState({"w": jnp.asarray(student)}, {}),
            decay=float(data["alpha"]),
            batch_stats="leave",
        )
        np.testing.assert_allclose(teacher.params["w"], expected, atol=1e-6, rtol=0)


def check_running_conf(path):
    data = np.load(path)
    state = jnp.asarray(data["init"])
    for probs, expected in zip(data["probs"], data["states"], strict=True):
        state = running_confidence.update_running_confidence(
            state,
            nhwc(probs),
            beta=float(data["beta"]),
            momentum=float(data["momentum"]),
            tolerance=float(data["tolerance"]),
        )
        np.testing.assert_allclose(state, expected, atol=1e-6, rtol=0)


def check_pseudo_labels(path):
    data = np.load(path)
    for name in data["names"]:
        probs = nhwc(data[f"{name}/probs"])
        upper, beta = data[f"{name}/upper_beta"].tolist()
        labels = running_confidence.confident_labels(
            probs,
            jnp.asarray(data[f"{name}/running_conf"]),
            upper=upper,
            beta=beta,
            discount=bool(data[f"{name}/discount"]),
        )
        np.testing.assert_array_equal(labels, data[f"{name}/labels"])


def check_full2weak(path):
    data = np.load(path)
    warp = jax.jit(full_to_weak, static_argnames=("crop_size", "down_ratio", "nearest"))
    for name in data["names"]:
        top, bottom, left, right = data[f"{name}/crop_y1y2x1x2"].T
        nearest = bool(data[f"{name}/nearest"])
        y = warp(
            nhwc(data[f"{name}/x"]),
            rescale_size=_labels(data[f"{name}/rescale_size"]),
            crop_origin=_labels(np.stack([top, left], 1)),
            flip=jnp.asarray(data[f"{name}/flip"]),
            crop_size=(int((bottom - top)[0]), int((right - left)[0])),
            down_ratio=int(data[f"{name}/down_ratio"]),
            nearest=nearest,
        )
        expected = np.moveaxis(data[f"{name}/y"], 1, -1)
        assert y.shape == expected.shape
        atol = 0 if nearest else 1e-5
        np.testing.assert_allclose(y, expected, atol=atol, rtol=0)


def check_dtst_loss(path):
    data = np.load(path)
    for name in data["names"]:
        mix = _labels(data[f"{name}/mix_label"])
        merged = jnp.where(mix != IGNORE, mix, _labels(data[f"{name}/pseudo_label"]))
        np.testing.assert_array_equal(merged, data[f"{name}/merged_label"])
        selected = negative_classes(nhwc(data[f"{name}/teacher_probs"]))
        np.testing.assert_array_equal(
            np.where(selected, 0, IGNORE),
            np.moveaxis(data[f"{name}/neg_target"], 1, -1),
        )

        def loss(logits, merged=merged, selected=selected):
            positive = mean_cross_entropy(logits, merged, denominator="all")
            negative = 0.5 * negative_learning(logits, selected)
            return positive + negative, (positive, negative)

        step = jax.jit(jax.value_and_grad(loss, has_aux=True))
        (total, (positive, negative)), grad = step(nhwc(data[f"{name}/student_logits"]))
        for value, key in ((positive, "_pos"), (negative, "_neg"), (total, "")):
            np.testing.assert_allclose(value, data[f"{name}/loss{key}"], rtol=1e-5)
        expected = np.moveaxis(data[f"{name}/grad_student_logits"], 1, -1)
        np.testing.assert_allclose(grad, expected, atol=1e-7, rtol=0)


@jax.jit
def _scores(logits, positions):
    probs = jax.nn.softmax(logits).reshape(-1, logits.shape[-1])
    return {
        "soft_nd": student_scores.soft_neighbourhood_density(probs, positions),
        "ent_score": student_scores.peak_certainty(probs),
    }


def check_dtu_scores(path):
    data = np.load(path)
    for i in range(int(data["n"])):
        positions = _labels(data[f"{i}/perm"][:100])
        found = _scores(nhwc(data[f"{i}/logits"]), positions)
        for name, score in found.items():
            expected = data[f"{i}/{name}"]
            np.testing.assert_allclose(score, expected, atol=1e-5, rtol=0)
    rows = jax.nn.softmax(jnp.asarray(data["entropy/x"]))
    entropy = student_scores.row_entropy(rows)
    np.testing.assert_allclose(entropy, data["entropy/rowwise_prob"], atol=1e-5, rtol=0)
    np.testing.assert_allclose(entropy.mean(), data["entropy/mean"], atol=1e-5, rtol=0)


def check_dtu_decision(path):
    data = np.load(path)
    for name in data["names"]:
        scores = data[f"{name}/scores_at_step"]
        start, step, maximum = data[f"{name}/query_start_step_max"].tolist()
        per = scores.shape[1]
        rule = teachers.UpdateRule(
            start=start,
            step=step,
            maximum=maximum,
            count="images" if per > 1 else "iterations",
            per_iteration=per,
        )
        with jax.enable_x64(True):  # the script's scores are float64, ties exact
            _replay_decisions(rule, {k: data[f"{name}/{k}"] for k in _DECISION})


_DECISION = (
    "scores_at_step",
    "requeried_scores",
    "buffer_len_at_decision",
    "queried",
    "updated",
    "update_interval",
)


def _replay_decisions(rule, case):
    per = rule.per_iteration
    inputs = {"row": jnp.zeros((per,), jnp.float64)}
    state = rule.init(inputs)
    state = state.replace(
        scores=state.scores.astype(jnp.float64),
        mean_old=state.mean_old.astype(jnp.float64),
        mean_new=state.mean_new.astype(jnp.float64),
    )
    asked, intervals = 0, []

    @jax.jit
    def advance(state, scores, answers):
        state = rule.push(state, scores, {"row": jnp.zeros((per,), jnp.float64)})
        stored = rule.stored(state.count)
        state = state.replace(inputs={"row": answers})
        return rule.decide(state, lambda inputs: inputs["row"]), stored

    rows = [case[k] for k in ("scores_at_step", "buffer_len_at_decision")]
    flags = [case[k] for k in ("queried", "updated")]
    for scores, stored, queried, updated in zip(*rows, *flags, strict=True):
        answers = np.zeros(state.scores.size)
        if queried:
            given = case["requeried_scores"][asked][: answers.size]
            answers[: given.size] = given
        state, length = advance(state, scores, answers.reshape(-1, per))
        asked += int(queried)
        seen = int(length), bool(state.queried), bool(state.updated)
        assert seen == (stored, queried, updated)
        if updated:
            intervals.append(int(state.interval))
    assert intervals == case["update_interval"].tolist()


def check_tcr_candidate(path):
    data = np.load(path)
    settings = {"num_classes": int(data["num_classes"]), "portion": float(data["topk"])}
    first = candidates.first_candidates(
        _predictions(data["logits_init"], 4), **settings
    )
    size = data["init_ctr"].shape[1:]
    _check_candidates(first, data, "init", size)
    stored = dict(zip(first.ids, first.predictions, strict=True))
    again = candidates.next_candidates(
        _predictions(data["logits_next"], 1), stored.get, stride=2, **settings
    )
    _check_candidates(again, data, "next", size)
    for name, (new, _) in _predictions(data["logits_next"], 1):
        old = ranking.enlarge(stored[name[0]], size)
        iou = ranking.agreement(new[0], old, num_classes=settings["num_classes"])
        np.testing.assert_allclose(
            iou, data["next_iou"][int(name[0])], atol=1e-6, rtol=0
        )


def _predictions(logits, stride):
    for i, image in enumerate(logits):
        probs = jax.nn.softmax(nhwc(image[None]))[:, ::stride, ::stride]
        labels = np.asarray(probs.argmax(-1)).astype(np.uint8)
        yield [str(i)], (labels, np.asarray(probs.max(-1)))


def _check_candidates(found, data, round_, size):
    np.testing.assert_allclose(
        found.thresholds, data[f"{round_}_thresholds"], atol=1e-6, rtol=0
    )
    for name, maps in (("ctr_o", found.predictions), ("ctr", found.kept)):
        enlarged = np.stack([ranking.enlarge(x, size) for x in maps])
        np.testing.assert_array_equal(enlarged, data[f"{round_}_{name}"])


def check_train_steps_dtst(path):
    data = np.load(path)
    hyper = json.loads(str(data["hyper"]))
    tree = published_tree(data, "init/")
    model = model_of(tree)
    student = to_flax(tree, model)
    method = _dtst(model, hyper, data)
    optimizer = recorded_optimizer(hyper)
    state = start_state(method, optimizer, student, jax.random.key(0))
    with _recorded_positions(data["perms"]) as turn:
        annotate = jax.jit(method.annotate)
        step = jax.jit(make_train_step(method, optimizer))
        updates = Updates()
        for t in range(int(data["T"])):
            turn["step"] = t
            batch = {"target": recorded_target(data, t)}
            _, targets = annotate(state, batch, jax.random.key(1))
            np.testing.assert_array_equal(
                targets.labels, data["merged_pseudo_label"][t]
            )
            state, metrics = step(state, batch, jax.random.key(1))
            _check_step(data, t, state, metrics)
            if hyper["dynamic"]:
                updates.note(state.method.dtu)
            if t == 0:
                check_network(data, "student_after_1", state.student, model)
    if hyper["dynamic"]:
        updates.check(data)
    check_network(data, "student_final", state.student, model)
    check_network(data, "teacher_final", state.teacher, model)


def _dtst(model, hyper, data):
    score = {"SND": "soft_nd", "ENT": "ent"}[hyper["metric"]]
    return Method(model=model, score=score, **recorded_settings(data, hyper))


@contextlib.contextmanager
def _recorded_positions(perms):
    """Recorded draws in place of random ones; the yielded dict says which."""
    turn = {"step": 0}

    def recorded(key, total, count):
        def draw():
            return perms[turn["step"]][:count].astype(np.int32)

        return io_callback(draw, jax.ShapeDtypeStruct((count,), jnp.int32))

    with mock.patch.object(student_scores, "draw_positions", recorded):
        yield turn


def _check_step(data, t, state, metrics):
    for name in ("loss_pos", "loss_neg"):
        np.testing.assert_allclose(metrics[name], data[name][t], rtol=1e-4)
    check_rate_and_prior(data, t, state, metrics)
    dtu = state.method.dtu
    if dtu is not None:
        assert bool(dtu.updated) == data["teacher_updated"][t]
        assert int(dtu.count) == data["buffer_len_after"][t]


CHECKERS = {
    "lr_poly.npz": check_lr_poly,
    "ema.npz": check_ema,
    "running_conf.npz": check_running_conf,
    "pseudo_labels.npz": check_pseudo_labels,
    "full2weak.npz": check_full2weak,
    "dtst_loss.npz": check_dtst_loss,
    "dtu_scores.npz": check_dtu_scores,
    "dtu_decision.npz": check_dtu_decision,
    "tcr_candidate.npz": check_tcr_candidate,
    "train_steps_dtst.npz": check_train_steps_dtst,
}
