"""IAST's DeepLabV2 and discriminator, resizing, and the checkpoints' names."""

import functools
import json
import zlib

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from sfda_jax.losses.adversarial import adversarial_loss, discriminator_loss
from sfda_jax.models import deeplab_v2, discriminator
from sfda_jax.models.layers import BatchNorm, max_pool3x3
from sfda_jax.models.resnet import Bottleneck, ResNet
from sfda_jax.ops.resize import resize_bilinear, resize_nearest
from sfda_jax.weights.layout import published_entries
from sfda_jax.weights.layouts import deeplab_v2_iast as layout
from sfda_jax.weights.layouts import discriminator as discriminator_names
from tests.golden.published_weights import (
    fill,
    nchw,
    nhwc,
    published,
    relmax,
    stored,
)

SYSTEM = "iast"
_PLACE = {"place": ("backbone", "layer1_0"), "prefix": "backbone.layer1.0."}
_DISCRIMINATOR = {"prefix": "discriminators.Origin-Predictor."}


def iast_model(num_classes, **settings):
    settings = {**deeplab_v2.PUBLISHED["iast"], **settings}
    return deeplab_v2.Model(num_classes=num_classes, **settings)


def formula_weight(name, shape):
    """The float32 array of this name, as the README's formula has it."""
    count = int(np.prod(shape))
    salt = (zlib.crc32(name.encode()) * 2654435769) % 2**32
    with np.errstate(over="ignore"):
        x = np.arange(count, dtype=np.uint32) + np.uint32(salt)
        x ^= x >> np.uint32(16)
        x *= np.uint32(0x85EBCA6B)
        x ^= x >> np.uint32(13)
        x *= np.uint32(0xC2B2AE35)
        x ^= x >> np.uint32(16)
    u = (x / 2.0**32).reshape(shape)
    if name.endswith("running_mean"):
        array = 0.2 * (2 * u - 1)
    elif name.endswith("running_var"):
        array = 0.5 + u
    elif len(shape) >= 2:
        array = (2 * u - 1) * np.sqrt(6 / np.prod(shape[1:]))
        array = array * 0.25 if ".aspp." in name else array
    elif name.endswith("weight"):
        array = (0.5 + u) * (0.2 if name.endswith("bn3.weight") else 1)
    else:
        array = 0.2 * (2 * u - 1)
    return array.astype(np.float32)


def check_block(path):
    case = np.load(path)
    weights = stored(case, "w/")
    planes = weights("conv1.weight", None).shape[0]
    block = Bottleneck(
        planes,
        int(case["stride"]),
        int(case["dilation"]),
        "w/downsample.0.weight" in case.files,
        functools.partial(BatchNorm, eps=1e-5),
    )
    x, cotangent = nhwc(case["x"]), nhwc(case["dy"])
    init = functools.partial(block.init, jax.random.key(0), x, use_running_average=True)
    variables = fill(init, layout, weights, **_PLACE)
    y = block.apply(variables, x, use_running_average=True)
    assert relmax(nchw(y), case["y_eval"]) <= 1e-5

    @jax.jit
    def train(params, x):
        return block.apply(
            {**variables, "params": params},
            x,
            use_running_average=False,
            mutable=["batch_stats"],
        )

    y, vjp, after = jax.vjp(train, variables["params"], x, has_aux=True)
    gradient, x_gradient = vjp(cotangent)
    assert relmax(nchw(y), case["y_train"]) <= 1e-5
    assert relmax(nchw(x_gradient), case["dx_train"]) <= 1e-4
    found = published({"params": gradient}, layout, **_PLACE)
    check_stored(found, case, "g/", 1e-4)
    check_stored(published(after, layout, **_PLACE), case, "after/", 1e-5)


def check_stored(found, case, prefix, tolerance):
    """Every array stored under the prefix, relative to its largest value."""
    keys = [key for key in case.files if key.startswith(prefix)]
    assert keys
    for key in keys:
        difference = relmax(found[key.removeprefix(prefix)], case[key])
        assert difference <= tolerance, (key, difference)


def check_stem(path):
    case = np.load(path)
    weights = stored(case, "w/")
    channels = weights("conv1.weight", None).shape[0]
    model = ResNet(channels, bn_eps=1e-5)
    stem = {"method": "stem", "use_running_average": True}
    init = functools.partial(model.init, jax.random.key(0), nhwc(case["x0"]), **stem)
    place = {"place": ("backbone",), "prefix": "backbone."}
    variables = fill(init, layout, weights, **place)
    for key in case.files:
        if not key.startswith("x"):
            continue
        index = key.removeprefix("x")
        y = model.apply(variables, nhwc(case[key]), **stem)
        assert relmax(nchw(y), case[f"stem{index}"]) <= 1e-5
        assert relmax(nchw(max_pool3x3(y)), case[f"pool{index}"]) <= 1e-5


def check_aspp(path):
    case = np.load(path)
    head = deeplab_v2.AsppHead(case["y"].shape[1])
    x = nhwc(case["x"])
    init = functools.partial(head.init, jax.random.key(0), x)
    place = {"place": ("head",), "prefix": "decoder."}
    variables = fill(init, layout, stored(case, "w/"), **place)
    assert relmax(nchw(head.apply(variables, x)), case["y"]) <= 1e-5


def check_bilinear(path):
    case = np.load(path)
    size = tuple(int(n) for n in case["size_hw"])
    y = resize_bilinear(nhwc(case["x"]), size, align_corners=True)
    np.testing.assert_allclose(nchw(y), case["y"], rtol=0, atol=1e-5)


def check_nearest(path):
    case = np.load(path)
    for key in case.files:
        _, n_in, _, n_out = key.split("_")
        line = jnp.arange(int(n_in))[None, :, None]
        index = resize_nearest(line, (int(n_out), 1), half_pixel=True)
        np.testing.assert_array_equal(index[0, :, 0], case[key])


def stages(model, images):
    """What the case calls C1 to C5, and the decoder's output."""
    backbone = model.backbone
    stem = backbone.stem(images, use_running_average=True)
    outputs = backbone(images, use_running_average=True)
    return [stem, *outputs], model.classify(outputs[-1])


def check_forward(path):
    case = np.load(path)
    model = iast_model(case["decoder_out"].shape[1], scan_blocks=True)
    images = (nhwc(case["image_u8"]) - 128) / 64
    init = functools.partial(model.init, jax.random.key(0), images)
    variables = fill(init, layout, formula_weight)
    features, decoded = jax.jit(nn.apply(stages, model))(variables, images)
    for index, feature in enumerate(features, start=1):
        _check_stage(case, f"c{index}", nchw(feature))
    assert relmax(nchw(decoded), case["decoder_out"]) <= 1e-4
    logits = resize_bilinear(decoded, images.shape[1:3], align_corners=True)
    assert relmax(nchw(logits)[:, :, ::8, ::8], case["logits_sub"]) <= 1e-4
    assert (np.asarray(logits).argmax(-1) == case["argmax"]).mean() >= 0.999
    train = functools.partial(
        model.apply, use_running_average=False, mutable=["batch_stats"]
    )
    output, after = jax.jit(train)(variables, images)
    assert relmax(nchw(output.logits), case["train_decoder_out"]) <= 1e-4
    check_stored(published(after, layout), case, "after/", 1e-4)


def _check_stage(case, name, feature):
    assert feature.shape == tuple(case[f"{name}_shape"])
    for key, observed in (
        (f"{name}_mean", feature.mean()),
        (f"{name}_std", feature.std()),
        (f"{name}_ch0", feature[0, 0]),
        (f"{name}_px", feature[0, :, feature.shape[2] // 2, feature.shape[3] // 2]),
    ):
        difference = relmax(observed, case[key])
        assert difference <= 1e-4, (key, difference)


def check_discriminator(path):
    case = np.load(path)
    source, target = (nhwc(case[f"{domain}_logits"]) for domain in ("source", "target"))
    network = discriminator.Model(source.shape[-1], width=int(case["ndf"]))
    init = functools.partial(network.init, jax.random.key(0), source)
    weights = stored(case, "w/")
    variables = fill(init, discriminator_names, weights, **_DISCRIMINATOR)

    @jax.jit
    def score(variables, logits):
        return network.apply(variables, jax.nn.softmax(logits))

    assert relmax(nchw(score(variables, source)), case["d_source"]) <= 1e-4
    assert relmax(nchw(score(variables, target)), case["d_target"]) <= 1e-4

    def own_loss(variables):
        return discriminator_loss(score(variables, source), score(variables, target))

    def against(logits):
        return adversarial_loss(score(variables, logits))

    value, gradient = jax.value_and_grad(own_loss)(variables)
    np.testing.assert_allclose(float(value), float(case["loss_d"]), rtol=1e-4)
    found = published(gradient, discriminator_names, **_DISCRIMINATOR)
    check_stored(found, case, "g/", 1e-4)
    value, gradient = jax.value_and_grad(against)(target)
    np.testing.assert_allclose(float(value), float(case["loss_adv"]), rtol=1e-4)
    assert relmax(nchw(gradient), case["grad_adv_target_logits"]) <= 1e-4


def check_manifest(path):
    entries = {
        entry["name"]: entry
        for entry in json.loads(path.read_text())["entries"]
        if entry["kind"] != "bn_count" and ".fc." not in entry["name"]
    }
    classes = entries["decoder.aspp.conv2d_list.0.bias"]["shape"][0]
    names = "deeplab_v2_iast"
    by_stage = {
        "source_only": [(iast_model(classes, frozen_bn=False), names)],
        "warmup_at": [
            (iast_model(classes), names),
            (discriminator.Model(classes), "discriminator"),
        ],
        "self_training": [(iast_model(classes), names)],
    }
    for stage, networks in by_stage.items():
        found = {
            entry.name: (tuple(entry.shape), entry.trainable)
            for model, names in networks
            for entry in published_entries(model, names)
        }
        assert found == {
            name: (
                tuple(entry["shape"]),
                entry.get("receives_gradient", {}).get(stage, False),
            )
            for name, entry in entries.items()
            if entry["in_checkpoint"][stage]
        }


CHECKERS = {
    "block_*.npz": check_block,
    "stem_maxpool*.npz": check_stem,
    "aspp*.npz": check_aspp,
    "bilinear_ac_*.npz": check_bilinear,
    "nearest_upsample_index*.npz": check_nearest,
    "resnet101_forward*.npz": check_forward,
    "resnet101_manifest*.json": check_manifest,
    "discriminator*.npz": check_discriminator,
}
