"""Losses of BiSMAP, and the ramp of its consistency loss."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np

from sfda_jax.losses.consistency import mean_divergence
from sfda_jax.losses.cross_entropy import (
    mean_cross_entropy,
    mean_reverse_cross_entropy,
    symmetric_cross_entropy,
)
from sfda_jax.losses.distillation import distillation_loss
from sfda_jax.ops.resize import resize_bilinear
from sfda_jax.ops.schedules import ramp_up
from sfda_jax.types import IGNORE
from tests.golden.published_weights import nchw, nhwc

SYSTEM = "bismap"
PUBLISHED_IGNORE = 250


def train_ids(labels):
    """Published labels as ours: `IGNORE` is another number."""
    return jnp.asarray(np.where(labels == PUBLISHED_IGNORE, IGNORE, labels), jnp.int32)


def compare(found, value, gradient):
    """The README's tolerances; NaN (0 pixels) is 0 here, its gradient is the same."""
    np.testing.assert_allclose(found[0], np.nan_to_num(value), rtol=1e-5)
    np.testing.assert_allclose(nchw(found[1]), gradient, rtol=1e-4, atol=1e-8)


def check_weighted(path):
    case = np.load(path)
    kept = functools.partial(
        mean_cross_entropy, labels=train_ids(case["labels"]), denominator="kept"
    )
    for name, weights in (("weighted", jnp.asarray(case["reweight"])), ("plain", None)):
        found = jax.value_and_grad(functools.partial(kept, weights=weights))(
            nhwc(case["logits"])
        )
        compare(found, case[f"loss_{name}"], case[f"grad_{name}"])


def check_symmetric(path):
    case = np.load(path)
    logits, labels = nhwc(case["logits"]), train_ids(case["labels"])
    found = jax.value_and_grad(symmetric_cross_entropy)(logits, labels)
    compare(found, case["loss"], case["grad"])
    terms = {
        "ce_term": mean_cross_entropy(logits, labels, denominator="kept"),
        "rce_term": mean_reverse_cross_entropy(logits, labels),
    }
    for name, term in terms.items():
        np.testing.assert_allclose(term, np.nan_to_num(case[name]), rtol=1e-5)


def enlarged(logits, size):
    return resize_bilinear(logits, size, align_corners=True)


def check_consistency(path):
    case = np.load(path)
    occluded = jnp.asarray(case["mask"])
    size = occluded.shape[1:]
    teacher = enlarged(nhwc(case["teacher_logits"]), size)
    ramp = ramp_up(case["iteration"][None], length=4000)[0]
    np.testing.assert_allclose(ramp, case["ramp"], rtol=0, atol=1e-7)
    factor = jnp.float32(case["lambda_consist"] * ramp)

    def loss(logits):
        return factor * mean_divergence(enlarged(logits, size), teacher, ~occluded)

    found = jax.value_and_grad(loss)(nhwc(case["student_logits"]))
    compare(found, case["loss"], case["grad_student"])


def check_distillation(path):
    case = np.load(path)
    labels = train_ids(case["labels"])
    size = labels.shape[1:]
    teacher = enlarged(nhwc(case["teacher_logits"]), size)

    def total(logits):
        logits = enlarged(logits, size)
        distance = distillation_loss(logits, teacher)
        return symmetric_cross_entropy(logits, labels) + distance, distance

    (value, distance), gradient = jax.value_and_grad(total, has_aux=True)(
        nhwc(case["student_logits"])
    )
    np.testing.assert_allclose(distance, case["loss_kd"], rtol=1e-5)
    compare((value, gradient), case["loss_target_total"], case["grad_student"])


def check_ramp(path):
    case = np.load(path)
    steps = case["iters"]
    recorded = [key for key in case.files if key.startswith("w_")]
    assert recorded
    for key in recorded:
        start, length = re.fullmatch(r"w_(?:start(\d+)_)?len(\d+)", key).groups()
        settings = {"start": int(start or 0), "length": int(length)}
        for given in (steps, jnp.asarray(steps, jnp.int32)):
            found = np.asarray(ramp_up(given, **settings))
            expected = np.broadcast_to(case[key], found.shape)
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-7)


CHECKERS = {
    "loss_ce_*.npz": check_weighted,
    "loss_sce*.npz": check_symmetric,
    "loss_consist*.npz": check_consistency,
    "loss_kd_*.npz": check_distillation,
    "consist_ramp*.npz": check_ramp,
}
