"""BiSMAP's scores, validation and multi-scale labels."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from sfda_jax.evaluation.confusion import confusion_matrix, scores
from sfda_jax.evaluation.predictor import Views, make_predictor, view_logits
from sfda_jax.pseudo_labels.constant import Selector
from sfda_jax.pseudo_labels.inference import Inference, mean_logits
from sfda_jax.tasks import class_space
from sfda_jax.types import SegOutput
from tests.golden.bismap_augmentation import our_ids
from tests.golden.published_weights import nchw, nhwc

SYSTEM = "bismap"
_CLEAR = 1e-4


class Convolution(nn.Module):
    """The cases' network: one strided convolution."""

    num_classes: int
    size: tuple[int, int]
    stride: int
    padding: int

    @nn.compact
    def __call__(self, images, *, deterministic, use_running_average):
        assert deterministic and use_running_average
        logits = nn.Conv(
            self.num_classes,
            self.size,
            (self.stride, self.stride),
            padding=self.padding,
            precision="highest",
        )(images)
        return SegOutput(logits=logits, features=logits)


def recorded_network(case):
    """(network, variables) of a case."""
    kernel = jnp.asarray(case["conv_weight"].transpose(2, 3, 1, 0))
    model = Convolution(
        num_classes=kernel.shape[-1],
        size=kernel.shape[:2],
        stride=int(case["conv_stride"]),
        padding=int(case["conv_pad"]),
    )
    conv = {"kernel": kernel, "bias": jnp.asarray(case["conv_bias"])}
    return model, {"params": {"Conv_0": conv}}


def view_sizes(case):
    return tuple((int(h), int(w)) for h, w in case["scales"])


def counted(labels, predictions, num_classes):
    counts = confusion_matrix(
        jnp.asarray(our_ids(labels)), jnp.asarray(predictions), num_classes
    )
    return np.asarray(counts, np.int64)


def check_metrics(path):
    case = np.load(path)
    classes = class_space("cityscapes19")
    parts = (slice(0, 2), slice(2, None))
    confusion = sum(
        counted(case["gt"][part], case["pred"][part], classes.num_classes)
        for part in parts
    )
    np.testing.assert_array_equal(confusion, case["confusion"])
    found = scores(confusion, classes)
    for value, name in (
        (found.accuracy, "overall_acc"),
        (found.mean_accuracy, "mean_acc"),
        (found.weighted_iou, "fw_iou"),
        (found.iou, "iou"),
        *((found.subsets[f"mIoU{n}"], f"miou{n}") for n in (19, 16, 13)),
    ):
        np.testing.assert_allclose(
            value, case[name], rtol=0, atol=1e-9, equal_nan=True, err_msg=name
        )


def check_validation(path):
    case = np.load(path)
    model, variables = recorded_network(case)
    views = Views(view_sizes=view_sizes(case), average="stride_probs")
    labels = case["labels"]
    predict = make_predictor(model, label_size=labels.shape[1:], views=views)
    probs = np.asarray(jax.jit(predict)(variables, nhwc(case["x"])))
    clear = case["margin"] > _CLEAR
    assert clear.mean() > 0.9
    pred = probs.argmax(-1)
    np.testing.assert_array_equal(pred[clear], case["pred"][clear])
    # the recorded margin is of sums over the scales, ours are means
    best = np.sort(probs, axis=-1) * len(views.view_sizes)
    np.testing.assert_allclose(
        best[..., -1] - best[..., -2], case["margin"], rtol=0, atol=_CLEAR
    )
    pred = np.where(clear, pred, case["pred"])
    confusion = counted(labels, pred, model.num_classes)
    np.testing.assert_array_equal(confusion, case["confusion"])


def check_labels(path):
    case = np.load(path)
    model, variables = recorded_network(case)
    images = nhwc(case["x"])
    size, sizes = images.shape[1:3], view_sizes(case)
    views = Views(view_sizes=sizes, flip=True, average="logits")
    logits = view_logits(model, variables, images, views)
    mean = mean_logits(logits, size, align_corners=True)
    np.testing.assert_allclose(nchw(mean), case["mean_logits"], rtol=0, atol=1e-4)
    inference = Inference(view_sizes=sizes, flip=True, enlarge="mean_logits")
    probs = jax.jit(inference.make_scores(model))(variables, images)
    np.testing.assert_allclose(probs, jax.nn.softmax(mean), rtol=0, atol=1e-5)
    # kept is what lies above the threshold there, what reaches it here
    above = np.nextafter(np.float32(case["threshold"]), np.float32(np.inf))
    selector = Selector(threshold=float(above))
    thresholds = selector.thresholds(selector.init(model.num_classes))
    found = selector.propose(probs, jnp.asarray(thresholds))["labels"]
    np.testing.assert_array_equal(found[0], our_ids(case["labels"]))


CHECKERS = {
    "metrics_*.npz": check_metrics,
    "validate_*.npz": check_validation,
    "infer_*.npz": check_labels,
}
