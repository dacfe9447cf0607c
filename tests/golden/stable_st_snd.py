"""Recorded cases of SND and Stable-ST: pixel weights and neighbour density."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from sfda_jax import student_scores
from sfda_jax.losses.cross_entropy import mean_cross_entropy
from sfda_jax.losses.pixel_weights import (
    LabelledFeatures,
    adam_weights,
    loss_weights,
    weight_gradient,
)
from sfda_jax.models import deeplab_v2
from sfda_jax.models.forward import head_logits
from sfda_jax.types import IGNORE
from tests.golden.stable_st_networks import nchw, nhwc

SYSTEM = "stable_st"


def _labels(x):
    return jnp.asarray(x, jnp.int32)


def _classifier(case):
    """Parameters of the head whose published tensors a case holds."""
    count = sum(key.endswith(".weight") for key in case)
    return {
        f"branch{i}": {
            "kernel": jnp.asarray(
                case[f"classifier/conv2d_list.{i}.weight"].transpose(2, 3, 1, 0)
            ),
            "bias": jnp.asarray(case[f"classifier/conv2d_list.{i}.bias"]),
        }
        for i in range(count)
    }


def _cases(data):
    for name in data["names"]:
        prefix = f"{name}/"
        keys = [key for key in data.files if key.startswith(prefix)]
        yield {key.removeprefix(prefix): data[key] for key in keys}


def _merged(case):
    mixed = _labels(case["mix_label"])
    return jnp.where(mixed != IGNORE, mixed, _labels(case["teacher_argmax"]))


def check_snd_inner(path):
    data = np.load(path)
    for case in _cases(data):
        gradient = _check_gradient(case, float(data["inner_lr"]))
        _check_weights(case, gradient, data)
        _check_weighted_loss(case)


def _check_gradient(case, inner_rate):
    params = _classifier(case)
    model = deeplab_v2.Model(num_classes=params["branch0"]["bias"].size)

    @jax.jit
    def run(params, pseudo, stable):
        return weight_gradient(
            lambda head, features: head_logits(model, head, features),
            params,
            pseudo,
            stable,
            align_corners=True,
            inner_rate=inner_rate,
        )

    found = run(
        params,
        LabelledFeatures(nhwc(case["teacher_feats"]), _merged(case)),
        LabelledFeatures(nhwc(case["val_feats"]), _labels(case["val_label"])),
    )
    np.testing.assert_allclose(found.inner_loss, case["inner_loss"], rtol=1e-5)
    np.testing.assert_allclose(found.stable_loss, case["val_loss"], rtol=1e-5)
    np.testing.assert_allclose(found.gradient, case["grad_w"], atol=1e-9, rtol=0)
    return found.gradient


def _check_weights(case, gradient, data):
    adam = {"rate": float(data["adam_lr"]), "epsilon": float(data["adam_eps"])}
    pasted = jnp.asarray(case["mix_label"] != IGNORE)
    weights = adam_weights(gradient, pasted, **adam)
    # Between these the gradient's own rounding decides the weight.
    size = np.abs(case["grad_w"])
    sure = (size == 0) | (size >= 1e-9)
    for value, key in (
        (adam_weights(gradient, jnp.zeros_like(pasted), **adam), "w_raw"),
        (weights, "w"),
        (loss_weights(weights), "loss_weight"),
    ):
        np.testing.assert_allclose(
            np.asarray(value)[sure], case[key][sure], atol=1e-2, rtol=0, err_msg=key
        )
    np.testing.assert_array_equal(weights[pasted], 1)


def _check_weighted_loss(case):
    labels, weights = _merged(case), loss_weights(jnp.asarray(case["w"]))
    np.testing.assert_allclose(weights, case["loss_weight"], rtol=1e-6)
    loss = functools.partial(mean_cross_entropy, denominator="all")
    value, gradient = jax.jit(jax.value_and_grad(loss))(
        nhwc(case["student_logits"]), labels, weights=weights
    )
    np.testing.assert_allclose(value, case["loss"], rtol=1e-5)
    np.testing.assert_allclose(
        nchw(gradient), case["grad_student_logits"], atol=1e-7, rtol=0
    )


@functools.partial(jax.jit, static_argnames="keep_ratio")
def _density(probs, images, features, keep_ratio):
    """Everything on the way to the scores, under the names of the recorded arrays."""
    entropies = student_scores.image_entropy(probs)
    styles = student_scores.style_vectors(images, keep_ratio=keep_ratio)
    neighbours = student_scores.stable_neighbours(entropies, styles)
    return {
        "entropy_score": entropies,
        "style_vec": styles,
        "stable_pool": student_scores.stable_pool(entropies),
        "neighbor": neighbours,
        "similarity_map": student_scores.similarity_maps(features, neighbours),
        "nfd": student_scores.neighbour_density(features, neighbours),
    }


def check_nfd(path):
    data = np.load(path)
    for case in _cases(data):
        arrays = (nhwc(case[name]) for name in ("probs", "images", "features"))
        found = jax.device_get(_density(*arrays, keep_ratio=float(data["keep_ratio"])))
        for name in ("stable_pool", "neighbor"):
            np.testing.assert_array_equal(found[name], case[name])
        for name, atol, rtol in (
            ("entropy_score", 1e-5, 0),
            ("style_vec", 1e-5, 0),
            ("similarity_map", 1e-6, 1e-5),
            ("nfd", 1e-6, 0),
        ):
            np.testing.assert_allclose(found[name], case[name], atol=atol, rtol=rtol)
        np.testing.assert_allclose(
            1 - found["nfd"], case["mean_entropy"], atol=1e-6, rtol=0
        )


CHECKERS = {
    "snd_inner*.npz": check_snd_inner,
    "nfd*.npz": check_nfd,
}
