"""Parity of the evaluation: counts and means, test-time augmentation (3.13)."""

import jax
import jax.numpy as jnp
import numpy as np

from sfda_jax.evaluation.confusion import confusion_matrix, dtst_scores
from sfda_jax.evaluation.predictor import Views, make_predictor
from sfda_jax.weights.convert import to_flax
from tests.golden.stable_st_networks import model_of, nchw, nhwc, published_tree

SYSTEM = "stable_st"


def check_miou(path):
    cases = np.load(path)
    classes = int(cases["num_classes"])
    total = np.zeros((classes, classes), np.int64)
    for name in cases["names"]:
        matrix = confusion_matrix(
            jnp.asarray(cases[f"{name}/target"]),
            jnp.asarray(cases[f"{name}/pred"]),
            classes,
        )
        matrix = np.asarray(matrix, np.int64)
        hits, targets = np.diagonal(matrix), matrix.sum(1)
        union = targets + matrix.sum(0) - hits
        np.testing.assert_array_equal(hits, cases[f"{name}/intersection"])
        np.testing.assert_array_equal(union, cases[f"{name}/union"])
        np.testing.assert_array_equal(targets, cases[f"{name}/target_area"])
        if name == "class_absent":
            iou = dtst_scores(matrix).iou
            np.testing.assert_allclose(iou, cases["absent_iou"], rtol=0, atol=1e-6)
        total += matrix
    scores = dtst_scores(total)
    for value, key in (
        (scores.iou, "iou_class"),
        (scores.accuracy, "acc_class"),
        (scores.miou, "miou"),
        (scores.macc, "macc"),
        (scores.all_accuracy, "all_acc"),
    ):
        np.testing.assert_allclose(value, cases[key], rtol=0, atol=1e-6, err_msg=key)


def check_inference_tta(path):
    case = np.load(path)
    tree = published_tree({key: case[key] for key in case.files})
    model = model_of(tree)
    variables = to_flax(tree, model).variables
    label_size = tuple(int(n) for n in case["label_size"])
    scales = tuple(float(s) for s in case["scales"])
    for key, settings in (
        ("probs_plain", {}),
        ("probs_flip", {"flip": True}),
        ("probs_ms_flip", {"flip": True, "scales": scales}),
    ):
        predict = make_predictor(model, label_size=label_size, views=Views(**settings))
        probs = jax.jit(predict)(variables, nhwc(case["x"]))
        np.testing.assert_allclose(
            nchw(probs), case[key], rtol=0, atol=1e-4, err_msg=key
        )


CHECKERS = {"miou.npz": check_miou, "inference_tta.npz": check_inference_tta}
