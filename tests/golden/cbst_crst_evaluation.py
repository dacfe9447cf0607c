"""Inference, scores and the whole way from images to pseudo-labels, CBST and CRST."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from sfda_jax.data.label_maps import LABEL_MAPS, UNMAPPED
from sfda_jax.data.transforms import Evaluate
from sfda_jax.evaluation.confusion import confusion_matrix, scores
from sfda_jax.evaluation.predictor import Views, make_predictor, view_logits
from sfda_jax.ops.color import normalize
from sfda_jax.ops.resize import resize_bilinear
from sfda_jax.pseudo_labels import class_maps
from sfda_jax.pseudo_labels.class_balanced import Selector
from sfda_jax.pseudo_labels.inference import Inference
from sfda_jax.pseudo_labels.rare_classes import classes_below, rare_classes
from sfda_jax.types import IGNORE, SegOutput
from tests.golden.cbst_crst_thresholds import _measured, _same_sizes
from tests.golden.iast_evaluation import numbered
from tests.golden.published_weights import nchw, nhwc

SYSTEM = "cbst_crst"
_CBST_MINE_FRACTION = 0.001
_SPACES = {19: "cityscapes19", 16: "synthia16", 13: "crosscity13"}


class Patches(nn.Module):
    """The cases' network: one convolution of 8 x 8 pixels, stride 8."""

    num_classes: int
    stride: int
    padding: int

    @nn.compact
    def __call__(self, images, *, deterministic, use_running_average):
        conv = nn.Conv(
            self.num_classes,
            (8, 8),
            (self.stride, self.stride),
            padding=self.padding,
            precision="highest",
        )
        logits = conv(images)
        return SegOutput(logits=logits, features=logits)


def patches(case, stride, padding):
    """(network, variables) of a case."""
    kernel = jnp.asarray(case["conv_weight"].transpose(2, 3, 1, 0))
    conv = {"kernel": kernel, "bias": jnp.asarray(case["conv_bias"])}
    return Patches(kernel.shape[-1], stride, padding), {"params": {"Conv_0": conv}}


def network_inputs(images, transform):
    """Normalised inputs, float32[n,h,w,3]."""
    rng = np.random.default_rng(0)
    inputs = [transform({"image": image}, rng)["images"] for image in images]
    return normalize(jnp.asarray(np.stack(inputs)))


def check_image_transform(path):
    case = np.load(path)
    for key in ("a", "b"):
        transform = Inference(
            size=(int(case[f"long_side_{key}"]),), resample="rule"
        ).transform()
        found = network_inputs(case["image"][None], transform)[0]
        np.testing.assert_allclose(found, case[f"out_{key}"], rtol=0, atol=1e-6)


def check_class_maps(path):
    case = np.load(path)
    size = (int(case["imh"]), int(case["imw"]))
    label_size = tuple(int(n) for n in case["im_size"])
    found = class_maps.enlarged(nhwc(case["net_preds"][None]), size, label_size)
    np.testing.assert_allclose(nchw(found)[0], case["out"], rtol=0, atol=1e-6)


def check_counts(case, pred, labels, table, prefix=""):
    """Confusion and IoU of predicted train ids against label ids."""
    num_classes = len(case[f"{prefix}confusion"])
    predicted = max(num_classes, int(pred.max()) + 1)
    labels = jnp.asarray(table[labels])
    counts = confusion_matrix(labels, jnp.asarray(pred), predicted)
    counts = np.asarray(counts, np.int64)
    inside = counts[:num_classes, :num_classes]
    np.testing.assert_array_equal(inside, case[f"{prefix}confusion"])
    found = scores(counts, numbered(predicted, num_classes), absent="zero")
    iou, accuracy = found.iou[:num_classes], found.class_accuracy[:num_classes]
    np.testing.assert_allclose(iou, case[f"{prefix}iou"], rtol=1e-6)
    if "class_acc" in case:
        np.testing.assert_allclose(accuracy, case["class_acc"], rtol=1e-6)
        np.testing.assert_allclose(found.accuracy, case["pixel_acc"], rtol=1e-6)
    return found


def lookup(valid):
    """Label id → train id, 255 for ids that are not valid."""
    table = np.full(256, IGNORE)
    table[valid] = np.arange(len(valid))
    return table


def cityscapes(num_classes):
    """Label id of Cityscapes → train id of the space with so many classes."""
    table = LABEL_MAPS["cityscapes", _SPACES[num_classes]]
    return np.where(table == UNMAPPED, IGNORE, table)


def check_cbst_score(path):
    case = np.load(path)
    table, num_classes = lookup(case["valid_labels"]), len(case["valid_labels"])
    # ids that no network of ours can predict: one class more, in no mean
    pred = np.minimum(table[case["pred"]], num_classes)
    found = check_counts(case, pred, case["label"], table)
    np.testing.assert_allclose(found.subsets["all"], case["miou"], rtol=1e-6)


def check_crst_score(path):
    case = np.load(path)
    found = check_counts(case, case["pred"], case["label"].astype(int), np.arange(256))
    np.testing.assert_allclose(found.subsets["all"], case["miou"], rtol=1e-6)


def check_cbst_inference(path):
    """Maps from images at a tolerance, and the rest exactly from the stored maps."""
    case = np.load(path)
    model, variables = patches(case, int(case["feat_stride"]), 0)
    images, flip = case["images"], bool(case["flip"])
    label_size = images.shape[1:3]
    inference = Inference(
        size=(int(case["test_scale"]),),
        resample="rule",
        flip=flip,
        enlarge="class_maps",
        label_size=label_size,
    )
    inputs = network_inputs(images, inference.transform())
    size = inputs.shape[1:3]
    views = Views(flip=flip, average="class_maps")
    logits = view_logits(model, variables, inputs, views)
    maps = sum(jax.nn.softmax(view) for view in logits) / len(logits)
    np.testing.assert_allclose(nchw(maps), case["net_preds"], rtol=1e-4)
    expected = class_maps.enlarged(nhwc(case["net_preds"]), size, label_size)
    probs = jax.jit(inference.make_scores(model))(variables, inputs)
    np.testing.assert_allclose(probs, expected, rtol=0, atol=1e-5)
    predict = make_predictor(model, label_size=label_size, views=views)
    np.testing.assert_allclose(predict(variables, inputs), expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(
        nchw(expected)[:1], case["probmap_first"], rtol=0, atol=1e-6
    )
    check_cbst_labels(case, expected)


def check_cbst_labels(case, probs):
    table = case["trainid_to_labelid"]
    num_classes = len(table)
    selector = Selector(
        portion=float(case["portion"]),
        policy={"cb": "class"}.get(str(case["policy"]), str(case["policy"])),
    )
    measured = jax.tree.map(np.asarray, selector.measure(probs))
    best = measured["labels"]
    np.testing.assert_array_equal(table[best], case["argmax_noprior_labelid"])
    check_counts(case, best, case["labels_labelid"], lookup(table))
    state = _measured(selector, num_classes, [measured])
    thresholds = selector.thresholds(state)
    expected = np.where(case["cls_thresh"] == 0, 1, case["cls_thresh"])
    # the maps that they are taken from agree to 1e-6
    np.testing.assert_allclose(thresholds, expected, rtol=0, atol=1e-6)
    sizes = np.array(selector.summary(state)["sizes"])
    np.testing.assert_array_equal(sizes, case["cls_size"])
    labels = selector.propose(probs, jnp.asarray(thresholds))["labels"]
    np.testing.assert_array_equal(labels, case["pseudo_trainid"])
    priority, smallest = rare_classes(
        sizes, fraction=_CBST_MINE_FRACTION, number=len(case["mine_id"])
    )
    if str(case["policy"]) == "cb":
        np.testing.assert_array_equal(priority, case["mine_id_priority"])
    _same_sizes(smallest, case["mine_id"], sizes)


def check_test_input(path):
    case = np.load(path)
    for percent in (90, 100):
        inference = Inference(scale=percent / 100, resample="opencv")
        found = network_inputs(case["images_rgb"], inference.transform())
        expected = case[f"net_input_{percent}"]
        np.testing.assert_allclose(nchw(found), expected, rtol=0, atol=1e-5)


def check_crst_end_to_end(path):
    case = np.load(path)
    model, variables = patches(
        case, int(case["conv_stride"]), int(case["conv_padding"])
    )
    images, flip = case["images_rgb"], bool(case["flip"])
    label_size = images.shape[1:3]
    inference = Inference(
        scale=float(case["eval_scale"]),
        resample="opencv",
        flip=flip,
        label_size=label_size,
    )
    inputs = network_inputs(images, inference.transform())
    np.testing.assert_allclose(nchw(inputs), case["net_input_eval"], rtol=0, atol=1e-5)
    probs = jax.jit(inference.make_scores(model))(variables, inputs)
    np.testing.assert_allclose(probs, case["prob"], rtol=0, atol=1e-6)
    pred = case["prob"].argmax(-1)
    table = cityscapes(model.num_classes)
    check_counts(case, pred, case["labels_labelid"], table, "val_")
    check_multi_scale(case, model, variables)
    if str(case["kc_value"]) == "conf":
        check_crst_labels(case)


def check_multi_scale(case, model, variables):
    """The test: mean of the enlarged logits over flips and scales."""
    images = case["images_rgb"]
    views = Views(
        scales=tuple(float(s) for s in case["test_scales"]),
        flip=bool(case["flip"]),
        average="logits",
    )
    inputs = network_inputs(images, Evaluate())
    np.testing.assert_allclose(nchw(inputs), case["net_input_full"], rtol=0, atol=1e-5)
    label_size = images.shape[1:3]
    predict = make_predictor(model, label_size=label_size, views=views)
    pred = np.asarray(predict(variables, inputs)).argmax(-1)
    enlarge = functools.partial(resize_bilinear, size=label_size, align_corners=True)
    logits = view_logits(model, variables, inputs, views)
    mean = np.sort(sum(map(enlarge, logits)) / len(logits), axis=-1)
    clear = mean[..., -1] - mean[..., -2] >= 1e-5
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(pred[clear], case["mst_pred"][clear])
    pred = np.where(clear, pred, case["mst_pred"])
    table = cityscapes(model.num_classes)
    check_counts(case, pred, case["labels_labelid"], table, "mst_")


def check_crst_labels(case):
    """Lists, thresholds, labels and mined classes of the stored probabilities."""
    probs = jnp.asarray(case["prob"])
    num_classes, stride = probs.shape[-1], int(case["ds_rate"])
    selector = Selector(
        portion=float(case["portion"]), stride=stride, extra_zero=False, sizes="pixels"
    )
    measured = jax.tree.map(np.asarray, selector.measure(probs))
    state = _measured(selector, num_classes, [measured])
    np.testing.assert_array_equal(selector.thresholds(state), case["cls_thresh"])
    found = selector.summary(state)
    np.testing.assert_array_equal(found["samples"], case["conf_len"])
    np.testing.assert_array_equal(found["ranks"], case["cls_sel_size"])
    sizes = case["pred_cls_num"]
    np.testing.assert_array_equal(found["sizes"], sizes)
    thresholds = jnp.asarray(selector.thresholds(state))
    labels = np.asarray(selector.propose(probs, thresholds)["labels"])
    kept = labels != IGNORE
    np.testing.assert_array_equal(kept, case["pseudo_labelid"] > 0)
    expected = cityscapes(num_classes)[case["pseudo_labelid"]]
    np.testing.assert_array_equal(labels[kept], expected[kept])
    _same_sizes(classes_below(sizes, float(case["mine_port"])), case["mine_id"], sizes)
    _, smallest = rare_classes(sizes, fraction=0.0, number=len(case["rare_id"]))
    _same_sizes(smallest, case["rare_id"], sizes)


CHECKERS = {
    "cbst_image_transform*.npz": check_image_transform,
    "cbst_interp_*.npz": check_class_maps,
    "cbst_score*.npz": check_cbst_score,
    "cbst_val_e2e_*.npz": check_cbst_inference,
    "crst_test_input*.npz": check_test_input,
    "crst_e2e_*.npz": check_crst_end_to_end,
    "crst_score*.npz": check_crst_score,
}
