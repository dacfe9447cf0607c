"""IAST's thresholds and labels, its losses on two regions, and the order of images."""

import jax
import jax.numpy as jnp
import numpy as np

from sfda_jax.data.torch_order import torch_randperm
from sfda_jax.losses.cross_entropy import mean_cross_entropy
from sfda_jax.losses.regularizers import (
    nan_where,
    region_entropy,
    region_kld,
    region_sizes,
)
from sfda_jax.pseudo_labels import instance_adaptive
from tests.golden.published_weights import nchw, nhwc, relmax

SYSTEM = "iast"
_SETTINGS = ("alpha", "beta", "gamma")


def check_selection(path):
    case = np.load(path)
    size = int(case["batch_size"])
    settings = {name: float(case[name]) for name in _SETTINGS}
    selector = instance_adaptive.Selector(
        theta0=float(case["theta_init"]), instance_size=size, **settings
    )
    probs, order = nhwc(case["probs"]), case["order"]
    state = selector.init(probs.shape[-1])
    propose = jax.jit(selector.propose)
    labels = np.empty_like(case["pseudo_label"])
    for first, psi in zip(range(0, len(order), size), case["psi"], strict=True):
        images = order[first : first + size]
        proposed = jax.device_get(propose(probs[images], selector.thresholds(state)))
        found = instance_adaptive.instance_thresholds(
            proposed["histogram"].sum(axis=0, dtype=np.int64),
            state["trace"][-1],
            alpha=selector.alpha,
            gamma=selector.gamma,
        )
        np.testing.assert_array_equal(found, psi)
        state, labels[images] = selector.select(state, proposed)
    trace = np.asarray(selector.summary(state)["trace"])
    np.testing.assert_array_equal(trace[:-1], case["theta_before"])
    np.testing.assert_array_equal(trace[1:], case["theta_after"])
    np.testing.assert_array_equal(labels, case["pseudo_label"])


_WEIGHTS = {"ce": "w_ce", "entropy_reg": "w_ent", "kld_reg": "w_kld"}


@jax.jit
def _terms(logits, labels, weights):
    """Name → (value, gradient) of the terms and their weighted sum; `_zero_terms`."""
    sizes = region_sizes(labels)

    def ce(logits):  # in float32, and without labels NaN in value only
        loss = mean_cross_entropy(logits, labels, denominator="kept")
        return jnp.where(sizes.kept == 0, jnp.nan, loss).astype(logits.dtype)

    def entropy(logits):
        return nan_where(sizes.ignored == 0, region_entropy(logits, labels), logits)

    def kld(logits):
        return nan_where(sizes.kept == 0, region_kld(logits, labels), logits)

    terms = {"ce": ce, "entropy_reg": entropy, "kld_reg": kld}

    def total(logits):
        return sum(weights[name] * term(logits) for name, term in terms.items())

    found = {
        name: jax.value_and_grad(term)(logits)
        for name, term in {**terms, "total": total}.items()
    }
    return found, _zero_terms(logits, labels)


def _zero_terms(logits, labels):
    """The same terms, 0 where their region is empty; those of the option `pixels`."""
    terms = {
        "ce": mean_cross_entropy(logits, labels, denominator="kept"),
        "entropy_reg": region_entropy(logits, labels),
        "kld_reg": region_kld(logits, labels),
    }
    per_pixel = {
        "entropy_reg_n1hw": region_entropy(logits, labels, region_norm="pixels"),
        "kld_reg_n1hw": region_kld(logits, labels, region_norm="pixels"),
    }
    return {**terms, **per_pixel}


def check_regularizers(path):
    case = np.load(path)
    for dtype, tolerance in ((jnp.float32, 1e-5), (jnp.float64, 1e-10)):
        with jax.enable_x64(dtype == jnp.float64):
            _compare(case, dtype, tolerance)


def _compare(case, dtype, tolerance):
    logits = case["logits"].transpose(0, 2, 3, 1).astype(dtype)
    labels = case["pseudo_label"].astype(np.int32)
    weights = {name: case[key].astype(dtype) for name, key in _WEIGHTS.items()}
    found, zero = jax.device_get(_terms(logits, labels, weights))
    exact = {"entropy_reg", "kld_reg"}  # the others hold a float32 cross-entropy
    for name, (value, gradient) in found.items():
        allowed = tolerance if name in exact else 1e-5
        np.testing.assert_allclose(value, case[name], rtol=allowed)
        _compare_gradient(nchw(gradient), case[f"grad_{name}"], allowed)
    for name in ("entropy_reg", "kld_reg"):
        expected = np.nan_to_num(case[f"{name}_n1hw"])
        np.testing.assert_allclose(zero[f"{name}_n1hw"], expected, rtol=tolerance)
    total = sum(float(case[key]) * float(zero[name]) for name, key in _WEIGHTS.items())
    expected = sum(
        float(case[key]) * np.nan_to_num(case[name]) for name, key in _WEIGHTS.items()
    )
    np.testing.assert_allclose(total, expected, rtol=1e-5)


def _compare_gradient(found, expected, tolerance):
    largest = np.abs(expected).max()
    if np.isnan(largest):
        np.testing.assert_array_equal(found, expected)
    elif largest < 1e-9:  # uniform logits, no label: 0 but for rounding
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
    else:
        assert relmax(found, expected) <= tolerance


def check_order(path):
    case = np.load(path)
    for key in case.files:
        count = int(key.removeprefix("order_"))
        np.testing.assert_array_equal(torch_randperm(count), case[key])


CHECKERS = {
    "ias_*.npz": check_selection,
    "reg_*.npz": check_regularizers,
    "sampler_order*.npz": check_order,
}
