"""Losses of CBST (cross-entropy on the stride-8 grid) and CRST (model regularisers)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from sfda_jax.losses.cross_entropy import mean_cross_entropy, pixel_cross_entropy
from sfda_jax.losses.model_regularizers import (
    confidence_regularised_loss,
    pixel_regularizer,
)
from sfda_jax.types import IGNORE
from tests.golden.published_weights import nchw, nhwc

SYSTEM = "cbst_crst"


def crst_loss(logits, case, **settings):
    """The loss of a case's labels, its weights as recorded."""
    soft = "soft_label" in case.files
    labels = nhwc(case["soft_label"]) if soft else case["label"].astype(np.int32)
    loss, _ = confidence_regularised_loss(
        logits,
        jnp.asarray(labels),
        regularizer="kld",
        weight=float(case["mr_weight_kld"]),
        image_weights=jnp.asarray(case["reg_weights"], jnp.float32),
        **settings,
    )
    return loss


def check_crst_loss(path):
    case = np.load(path)
    logits = nhwc(case["logits"])
    assert logits.shape[-1] == int(case["num_classes"])

    @functools.partial(jax.jit, static_argnames="strict_nan")
    def loss_and_gradient(logits, strict_nan=False):
        return jax.value_and_grad(crst_loss)(logits, case, strict_nan=strict_nan)

    strict = loss_and_gradient(logits, strict_nan=True)
    default = loss_and_gradient(logits)
    if np.isnan(case["loss"]):
        assert np.isnan(case["grad"]).all()
        assert np.isnan(strict[0])
        assert np.isnan(strict[1]).all()
        assert default[0] == 0
        assert not np.asarray(default[1]).any()
        return
    for loss, gradient in (strict, default):
        np.testing.assert_allclose(loss, case["loss"], rtol=1e-5)
        np.testing.assert_allclose(nchw(gradient), case["grad"], rtol=1e-4, atol=1e-8)


def check_formulas(path):
    case = np.load(path)
    with jax.enable_x64(True):
        logits = nhwc(case["logits"], jnp.float64)
        labels = jnp.where(jnp.asarray(case["valid"]), 0, IGNORE)

        def penalty(logits, name):
            _, parts = confidence_regularised_loss(
                logits,
                labels,
                regularizer=name,
                weight=1.0,
                image_weights=jnp.asarray(case["reg_weights"]),
                semantics="linear",
            )
            return parts["regularizer"]

        for name in ("l2", "ent", "kld"):
            value, gradient = jax.value_and_grad(penalty)(logits, name)
            assert value.dtype == np.float64
            np.testing.assert_allclose(value, case[f"loss_mr{name}"], rtol=1e-10)
            expected = case[f"grad_mr{name}"]
            np.testing.assert_allclose(nchw(gradient), expected, rtol=1e-10)
            pixel = pixel_regularizer(jax.nn.log_softmax(logits), name)
            assert pixel.shape == case["valid"].shape


def check_softmax(path):
    case = np.load(path)
    logits = nhwc(case["logits"])
    labels = jnp.asarray(case["label"].astype(np.int32).reshape(logits.shape[:3]))
    np.testing.assert_allclose(
        nchw(jax.nn.softmax(logits)), case["prob"], rtol=1e-5, atol=1e-7
    )
    gradient = nchw(
        jax.grad(lambda x: confidence_regularised_loss(x, labels)[0])(logits)
    )
    valid = int((labels != IGNORE).sum())
    if not valid:
        np.testing.assert_array_equal(gradient, 0)
        np.testing.assert_array_equal(gradient, case["grad"])
    np.testing.assert_allclose(
        gradient, case["grad"], rtol=1e-5, atol=0 if valid == 1 else 1e-7
    )


def check_metric(path):
    """The published training metric is the mean cross-entropy that steps log."""
    case = np.load(path)
    scores = jnp.log(nhwc(case["prob"]))
    labels = jnp.asarray(case["label"].astype(np.int32).reshape(scores.shape[:3]))
    total = pixel_cross_entropy(scores, labels).sum()
    np.testing.assert_allclose(total, case["sum_nll"], rtol=1e-5)
    for ids, name in ((labels, ""), (jnp.full_like(labels, IGNORE), "_allignored")):
        expected = case[f"sum_nll{name}"] / case[f"num{name}"]
        mean = mean_cross_entropy(scores, ids, denominator="kept")
        np.testing.assert_allclose(mean, expected, rtol=1e-5)
        step, _ = confidence_regularised_loss(scores, ids)
        np.testing.assert_allclose(step, expected, rtol=1e-5)


CHECKERS = {
    "crst_loss_*.npz": check_crst_loss,
    "formula_model_regularisers*.npz": check_formulas,
    "mx_softmax_ce_*.npz": check_softmax,
    "cbst_train_metric*.npz": check_metric,
}
