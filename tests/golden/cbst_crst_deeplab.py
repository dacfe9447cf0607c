"""CRST's DeepLabV2: blocks, whole network with gradients, names and visits."""

import functools
import json
import zlib

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from sfda_jax.losses.model_regularizers import confidence_regularised_loss
from sfda_jax.models import deeplab_v2
from sfda_jax.models.layers import BatchNorm, max_pool3x3
from sfda_jax.models.parameter_groups import sgd_visits
from sfda_jax.models.resnet import Bottleneck
from sfda_jax.ops.resize import resize_bilinear
from sfda_jax.weights.layout import published_entries
from sfda_jax.weights.layouts import deeplab_v2_crst as layout
from tests.golden.published_weights import fill, nchw, nhwc, published, stored

SYSTEM = "cbst_crst"
_PLACE = {"place": ("backbone", "layer1_0"), "prefix": "layer1.0."}


def crst_model(num_classes, **settings):
    settings = {**deeplab_v2.PUBLISHED["crst"], **settings}
    return deeplab_v2.Model(num_classes=num_classes, **settings)


def check_block(path):
    case = np.load(path)
    block = Bottleneck(
        int(case["planes"]),
        int(case["stride"]),
        int(case["dilation"]),
        bool(case["downsample"]),
        functools.partial(BatchNorm, eps=1e-5, fixed=True),
        stride_first=True,
    )
    x, cotangent = nhwc(case["x"]), nhwc(case["head_grad"])
    init = functools.partial(block.init, jax.random.key(0), x, use_running_average=True)
    variables = fill(init, layout, stored(case, "param/"), **_PLACE)

    @jax.jit
    def apply(params, x):
        variables_now = {**variables, "params": params}
        return block.apply(variables_now, x, use_running_average=False)

    y, vjp = jax.vjp(apply, variables["params"], x)
    gradient, x_gradient = vjp(cotangent)
    np.testing.assert_allclose(nchw(y), case["y"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(nchw(x_gradient), case["grad_x"], rtol=1e-4, atol=1e-5)
    found = published({"params": gradient}, layout, **_PLACE)
    for key in case.files:
        if key.startswith("grad/"):
            np.testing.assert_allclose(
                found[key.removeprefix("grad/")], case[key], rtol=1e-4, atol=1e-5
            )


def drawn_weight(base):
    """`weight(name, shape)` as the README's rule has it."""

    def weight(name, shape):
        rng = np.random.RandomState(zlib.crc32(name.encode()) ^ base)
        if len(shape) == 4:
            fan_in = shape[1] * shape[2] * shape[3]
            array = rng.standard_normal(shape) * np.sqrt(1 / fan_in)
        elif name.endswith("running_mean"):
            array = rng.uniform(-0.2, 0.2, shape)
        elif name.endswith(("running_var", ".weight")):
            array = rng.uniform(0.8, 1.2, shape)
        else:
            array = rng.uniform(-0.1, 0.1, shape)
        return array.astype(np.float32)

    return weight


def taps(model, images):
    """Name → array of what the cases record on the way, and the logits."""
    backbone = model.backbone
    stem = backbone.stem(images, use_running_average=True)
    stages = backbone(images, use_running_average=True)
    found = {f"layer{i + 1}": stage for i, stage in enumerate(stages)}
    found["conv1"] = backbone.conv1(images)
    found["maxpool"] = max_pool3x3(stem, ceil_mode=backbone.pool_ceil)
    return found, model.classify(stages[-1])


def check_full(path):
    case = np.load(path)
    model = crst_model(int(case["classes"]), scan_blocks=True)
    images = nhwc(case["x"])
    init = functools.partial(model.init, jax.random.key(0), images)
    variables = fill(init, layout, drawn_weight(int(case["base"])))
    found, logits = jax.jit(nn.apply(taps, model))(variables, images)
    np.testing.assert_allclose(nchw(logits), case["logits"], rtol=1e-4, atol=1e-3)
    for name, shape, statistics in zip(
        case["tap_names"], case["tap_shapes"], case["tap_mean_std_absmax"], strict=True
    ):
        tap = nchw(found[str(name)])
        assert tap.shape == tuple(shape)
        observed = tap.mean(), tap.std(), np.abs(tap).max()
        np.testing.assert_allclose(observed, statistics, rtol=1e-3, err_msg=name)
    for key, name in (("layer4_first4", "layer4"), ("maxpool_first2", "maxpool")):
        expected = case[key]
        first = nchw(found[name])[:, : expected.shape[1]]
        np.testing.assert_allclose(first, expected, rtol=1e-4, atol=1e-3)
    if "grad_l2" in case.files:
        check_gradient(case, model, variables)


def regularised_loss(logits, case):
    """Cross-entropy and MRKLD at the size of the labels (specification 6.2)."""
    labels = jnp.asarray(case["label"].astype(np.int32))
    loss, _ = confidence_regularised_loss(
        resize_bilinear(logits, labels.shape[1:], align_corners=True),
        labels,
        regularizer="kld",
        weight=float(case["mr_weight_kld"]),
        image_weights=jnp.asarray(case["reg_weights"], jnp.float32),
    )
    return loss


def check_gradient(case, model, variables):
    def loss(params):
        variables_now = {**variables, "params": params}
        output = model.apply(variables_now, nhwc(case["x"]), use_running_average=False)
        return regularised_loss(output.logits, case)

    value, gradient = jax.jit(jax.value_and_grad(loss))(variables["params"])
    np.testing.assert_allclose(float(value), float(case["loss"]), rtol=1e-4)
    found = published({"params": gradient}, layout)
    trained = {str(n) for n in case["param_names"][case["requires_grad"]]}
    assert found.keys() == trained
    for index, name in enumerate(map(str, case["param_names"])):
        if name not in trained:
            assert case["grad_l2"][index] == case["grad_absmax"][index] == -1
            continue
        observed = np.linalg.norm(found[name]), np.abs(found[name]).max()
        expected = case["grad_l2"][index], case["grad_absmax"][index]
        np.testing.assert_allclose(observed, expected, rtol=2e-3, err_msg=name)
    conv1 = case["grad_conv1"]
    branch = case["grad_cls0_first4in"]
    for found_part, expected in (
        (found["conv1.weight"][: len(conv1)], conv1),
        (found["layer5.conv2d_list.0.weight"][:, : branch.shape[1]], branch),
    ):
        scale = np.abs(expected).max()
        np.testing.assert_allclose(found_part, expected, rtol=2e-3, atol=2e-3 * scale)


def check_names(path):
    for key, listing in json.loads(path.read_text()).items():
        if not key.startswith("cls"):
            continue
        entries = published_entries(
            crst_model(int(key.removeprefix("cls"))), "deeplab_v2_crst"
        )
        found = {
            e.name: (
                tuple(e.shape),
                e.trainable,
                sgd_visits(e.path) if e.trainable else 0,
            )
            for e in entries
        }
        assert found == {
            e["torch"]: (tuple(e["shape"]), e["trainable"], e["updates_per_step"])
            for e in listing
        }


CHECKERS = {
    "deeplab_block_*.npz": check_block,
    "deeplab_r101_full_*.npz": check_full,
    "deeplabv2_r101_params*.json": check_names,
}
