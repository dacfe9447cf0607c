"""BiSMAP's DeepLabV3+: its parts, whole forward passes and checkpoint names."""

import fnmatch
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from sfda_jax.models import deeplab_v3_plus
from sfda_jax.models.layers import BatchNorm, max_pool3x3
from sfda_jax.models.pyramid_head import PyramidHead
from sfda_jax.models.resnet import Bottleneck, ResNet
from sfda_jax.ops.resize import resize_bilinear
from sfda_jax.weights.layout import published_entries
from sfda_jax.weights.layouts import deeplab_v3_plus as layout
from tests.golden.bismap_hash_weights import hash_weight
from tests.golden.published_weights import fill, nchw, nhwc, published

SYSTEM = "bismap"
_BLOCK = {"place": ("backbone", "layer1_0"), "prefix": "backbone.layer1.0."}
_DEFAULTS = deeplab_v3_plus.Model(num_classes=19)
_NORM = functools.partial(BatchNorm, eps=_DEFAULTS.bn_eps)


def assert_close(found, expected, tolerance=1e-4):
    """Within the README's tolerance, in standard deviations of what is expected."""
    atol = tolerance * expected.std()
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol)


def hashed(init, case, **place):
    weight = functools.partial(hash_weight, salt=int(case["salt"]))
    return fill(init, layout, weight, **place)


def check_bottleneck(path):
    case = np.load(path)
    planes, stride = int(case["planes"]), int(case["stride"])
    fixed = "out_train" not in case.files
    block = Bottleneck(
        planes,
        stride,
        int(case["dilation"]),
        stride != 1 or int(case["inplanes"]) != 4 * planes,
        functools.partial(_NORM, frozen=fixed, fixed=fixed),
    )
    x = nhwc(case["x"])
    init = functools.partial(block.init, jax.random.key(0), x, use_running_average=True)
    variables = hashed(init, case, **_BLOCK)
    y = block.apply(variables, x, use_running_average=True)
    assert_close(nchw(y), case["out_eval"])
    y, _ = block.apply(variables, x, use_running_average=False, mutable=["batch_stats"])
    assert_close(nchw(y), case["out_eval" if fixed else "out_train"])
    if fixed:
        assert all(leaf.ndim == 4 for leaf in jax.tree.leaves(variables["params"]))
        return
    # Recorded are the statistics before the training pass, bit for bit, and not the
    # moved ones as the README has it; check_train pins those.
    found = published(variables, layout, **_BLOCK)
    for name in ("running_mean", "running_var"):
        np.testing.assert_array_equal(found[f"bn2.{name}"], case[f"bn2_{name}"])


def check_stem(path):
    case = np.load(path)
    model = ResNet(case["after_maxpool"].shape[1], frozen_bn=False, bn_eps=1e-5)
    stem = {"method": "stem", "use_running_average": True}
    x = nhwc(case["x"])
    init = functools.partial(model.init, jax.random.key(0), x, **stem)
    place = {"place": ("backbone",), "prefix": "backbone."}
    y = model.apply(hashed(init, case, **place), x, **stem)
    first = case["after_conv_bn_relu"]
    assert_close(nchw(y)[:, : first.shape[1]], first)
    assert_close(nchw(max_pool3x3(y)), case["after_maxpool"])


def check_aspp(path):
    case = np.load(path)
    channels = case["out"].shape[1]
    aspp = deeplab_v3_plus.Aspp(channels, _DEFAULTS.dilations, _NORM)
    x = nhwc(case["x_f16"])
    init = functools.partial(aspp.init, jax.random.key(0), x, use_running_average=True)
    place = {"place": ("head", "fuse", "aspp"), "prefix": "aspp."}
    variables = hashed(init, case, **place)
    y, captured = aspp.apply(
        variables, x, use_running_average=True, capture_intermediates=True
    )
    assert_close(nchw(y), case["out"])
    inner = captured["intermediates"]
    for index, expected in enumerate(case["branch_first8"]):
        branch = nchw(inner[f"branch{index}"]["__call__"][0])
        assert_close(branch[:, : expected.shape[1]], expected)
    assert_close(nchw(inner["pool"]["__call__"][0]), case["global_branch"])


def check_decoder(path):
    case = np.load(path)
    low, scene = nhwc(case["low_level"]), nhwc(case["aspp"])
    decoder = functools.partial(
        deeplab_v3_plus.Decoder,
        scene.shape[-1],
        _DEFAULTS.low_channels,
        _DEFAULTS.dilations,
        _NORM,
    )
    head = PyramidHead(case["logits"].shape[1], decoder)

    def decode(head):
        features = head.fuse.merge(low, scene, use_running_average=True)
        large = resize_bilinear(scene, low.shape[1:3], align_corners=True)
        skip = head.fuse.reduce_low(low, use_running_average=True)
        return jnp.concatenate([large, skip], axis=-1), features, head(features)

    init = functools.partial(nn.init(decode, head), jax.random.key(0))
    place = {"place": ("head",), "prefix": "decoder."}
    joined, features, logits = nn.apply(decode, head)(hashed(init, case, **place))
    assert_close(nchw(joined)[:, case["mid_channel_index"]], case["mid_channels"])
    assert_close(nchw(features), case["cls_feat"])
    assert_close(nchw(logits), case["logits"])


def passes(model, images):
    """Stages of the backbone, and the output."""
    stages = model.backbone(images, use_running_average=True)
    return stages, model(images)


def check_eval(path):
    case = np.load(path)
    model = deeplab_v3_plus.Model(case["logits"].shape[1], scan_blocks=True)
    images = nhwc(case["x"])
    init = functools.partial(model.init, jax.random.key(0), images)
    variables = hashed(init, case)
    stages, output = jax.jit(nn.apply(passes, model))(variables, images)
    assert_close(nchw(stages[-1]), case["backbone_out"])
    low = case["low_level_first32"]
    assert_close(nchw(stages[0])[:, : low.shape[1]], low)
    assert_close(nchw(output.features), case["cls_feat"])
    assert_close(nchw(output.logits), case["logits"])
    large = resize_bilinear(output.logits, images.shape[1:3], align_corners=True)
    first = case["logits_upsampled_first4"]
    assert_close(nchw(large)[:, : first.shape[1]], first)


def check_train(path):
    case = np.load(path)
    model = deeplab_v3_plus.Model(
        case["logits"].shape[1], dtype="float64", scan_blocks=True
    )
    with jax.enable_x64(True):
        images = nhwc(case["x"], jnp.float64)
        init = functools.partial(model.init, jax.random.key(0), images)
        variables = hashed(init, case)
        variables = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), variables)
        train = functools.partial(
            model.apply, use_running_average=False, mutable=["batch_stats"]
        )
        output, after = jax.jit(train)(variables, images)
    assert output.logits.dtype == np.float64
    assert_close(nchw(output.logits), case["logits"], 1e-6)
    first = case["cls_feat_first16"]
    assert_close(nchw(output.features)[:, : first.shape[1]], first, 1e-6)
    found = published(after, layout)
    for key in case.files:
        if "running" in key:
            assert_close(found[key.replace("/", ".")], case[key], 1e-6)


def check_names(path):
    listing = json.loads(path.read_text())
    kept = {
        name: tuple(entry["shape"])
        for name, entry in listing.items()
        if not any(fnmatch.fnmatchcase(name, p) for p in layout.DROPPED)
    }
    frozen = len(kept) == len(listing)  # and an excerpt: no counters, not all layers
    model = _DEFAULTS.clone(frozen_bn=frozen, fixed_bn=frozen)
    found = {entry.name: tuple(entry.shape) for entry in published_entries(model)}
    if frozen:
        assert kept.items() <= found.items()
    else:
        assert found == kept


CHECKERS = {
    "net_bottleneck_*.npz": check_bottleneck,
    "net_resnet_stem*.npz": check_stem,
    "net_aspp*.npz": check_aspp,
    "net_decoder*.npz": check_decoder,
    "net_deeplabv3plus_r101_eval*.npz": check_eval,
    "net_deeplabv3plus_r101_train_f64*.npz": check_train,
    "deeplabv3plus_r101_*state_dict*.json": check_names,
}
