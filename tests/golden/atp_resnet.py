"""The ResNet v1c and the DeepLabV2 head of ATP, and its resizing."""

import functools
import json

import jax
import numpy as np

from sfda_jax.models.deeplab_v2 import PUBLISHED, AsppHead
from sfda_jax.models.resnet import ResNet
from sfda_jax.ops.resize import resize_bilinear
from sfda_jax.weights.layouts import deeplab_v2_atp as layout
from tests.golden.published_weights import fill, nchw, nhwc, stored

SYSTEM = "atp"


def formula_weights(index):
    """Name → float32 array, of a list of (name, shape) in order."""
    weights = {}
    for k, (name, shape) in enumerate(index):
        count = int(np.prod(shape))
        b = np.sin(0.7310585 * np.arange(count) + 0.3310 * k + 1.0).reshape(shape)
        if len(shape) >= 2:
            array = b * np.sqrt(2 / (count / shape[0]))
        elif name.endswith("running_var"):
            array = 1 + 0.5 * b
        elif name.endswith("weight"):
            array = 1 + 0.1 * b
        else:
            array = 0.05 * b
        weights[name] = array.astype(np.float32)
    return weights


def check_resnet(path):
    case = np.load(path)
    index = json.loads(str(case["state_index"]))
    weights = formula_weights(index)
    for (name, _), sums in zip(index, case["param_sum_abssum"], strict=True):
        if name.endswith("num_batches_tracked"):
            continue
        array = weights[name].astype(np.float64)
        np.testing.assert_allclose(
            (array.sum(), np.abs(array).sum()), sums, rtol=1e-6, atol=1e-9
        )
    blocks = tuple(
        len({n.split(".")[1] for n in weights if n.startswith(f"layer{stage}.")})
        for stage in range(1, 5)
    )
    model = ResNet(
        weights["stem.6.weight"].shape[0],
        tuple(weights[f"layer{s}.0.conv1.weight"].shape[0] for s in range(1, 5)),
        blocks,
        **PUBLISHED["atp"],
    )
    x = nhwc(case["x"])
    init = functools.partial(model.init, jax.random.key(0), x, use_running_average=True)
    place = {"place": ("backbone",), "prefix": "backbone."}
    variables = fill(init, layout, lambda name, shape: weights[name], **place)
    outputs = jax.jit(functools.partial(model.apply, use_running_average=True))(
        variables, x
    )
    for stage, output in enumerate(outputs):
        np.testing.assert_allclose(nchw(output), case[f"out{stage}"], rtol=0, atol=1e-4)


def check_head(path):
    case = np.load(path)
    dilations = tuple(int(d) for d in case["meta_dilations"])
    head = AsppHead(case["y_eval"].shape[1], dilations)
    x = nhwc(case["feat3"])
    init = functools.partial(head.init, jax.random.key(0), x)
    place = {"place": ("head",), "prefix": "decode_head."}
    variables = fill(init, layout, stored(case, "w/"), **place)
    y = head.apply(variables, x)
    np.testing.assert_allclose(nchw(y), case["y_eval"], rtol=0, atol=1e-4)


def check_resize(path):
    case = np.load(path)
    for key in case.files:
        if not key.startswith("y"):
            continue
        index = key[1:].removesuffix("_align_corners")
        resized = resize_bilinear(
            nhwc(case[f"x{index}"]),
            case[key].shape[2:],
            align_corners=key.endswith("_align_corners"),
        )
        np.testing.assert_allclose(nchw(resized), case[key], rtol=0, atol=1e-6)


CHECKERS = {
    "resnet*_v1c_*.npz": check_resnet,
    "dlv2_head_*.npz": check_head,
    "resize_bilinear*.npz": check_resize,
}
