"""IAST's evaluation: multi-scale and flip testing, and its mean over all classes."""

import jax
import jax.numpy as jnp
import numpy as np

from sfda_jax.evaluation.confusion import confusion_matrix, scores
from sfda_jax.evaluation.predictor import Views, make_predictor
from sfda_jax.tasks import ClassSpace
from tests.golden.iast_steps import make_network
from tests.golden.published_weights import nchw, nhwc

SYSTEM = "iast"


def numbered(num_classes, num_averaged=None):
    """A class space of so many nameless classes, all or the first in one mean."""
    return ClassSpace(
        name="numbered",
        names=tuple(str(c) for c in range(num_classes)),
        palette=np.zeros((num_classes, 3), np.uint8),
        subsets={"all": tuple(range(num_averaged or num_classes))},
    )


def check_scores(case, pred, miou_tolerance):
    num_classes = int(case["num_classes"])
    counts = confusion_matrix(
        jnp.asarray(case["label"]), jnp.asarray(pred), num_classes
    )
    counts = np.asarray(counts, np.int64)
    found = scores(counts, numbered(num_classes), absent="zero")
    np.testing.assert_allclose(found.subsets["all"], case["miou"], atol=miou_tolerance)
    return counts, found


def check_miou(path):
    case = np.load(path)
    counts, found = check_scores(case, case["pred"], 1e-6)
    hits = np.diagonal(counts)
    np.testing.assert_array_equal(hits, case["intersection"])
    np.testing.assert_array_equal(counts.sum(0) + counts.sum(1) - hits, case["union"])
    np.testing.assert_allclose(found.iou, case["iou"], rtol=0, atol=1e-6)


def check_evaluation(path):
    case = np.load(path)
    model, network = make_network(int(case["num_classes"]))
    images = (nhwc(case["image_u8"]) - 128) / 64
    height, width = images.shape[1:3]
    sizes = [(int(h), int(w)) for w, h in case["scales_wh"]]
    # sizes are rounded down: a hair more than the ratio gives them back
    scales = tuple(max(h / height, w / width) * (1 + 1e-9) for h, w in sizes)
    views = Views(scales=scales, flip=bool(case["flip"]), average="view_probs")
    assert views.sizes((height, width)) == sizes
    predict = make_predictor(model, label_size=(height, width), views=views)
    probs = np.asarray(jax.jit(predict)(network.variables, images))
    order = case["order"]
    # the original sums over the scales and views; ours is their mean
    summed = nchw(probs[order])[:, :, ::4, ::4] * len(scales) * (1 + views.flip)
    np.testing.assert_allclose(summed, case["prob_sum_sub"], rtol=0, atol=1e-5)
    pred = probs.argmax(-1)
    assert (pred[order] == case["pred"]).mean() >= 0.999
    check_scores(case, pred, 1e-3)


CHECKERS = {"miou_*.npz": check_miou, "eval_*.npz": check_evaluation}
