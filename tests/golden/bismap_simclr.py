"""SimCLRv2 with and without selective kernels: modules, forward pass, names."""

import fnmatch
import functools
import json

import jax
import numpy as np

from sfda_jax.models import simclr
from sfda_jax.models.layers import BatchNorm, max_pool3x3
from sfda_jax.models.resnet import Bottleneck, ResNet
from sfda_jax.weights.layout import published_entries
from sfda_jax.weights.layouts import deeplab_v3_plus as deeplab_v3_plus_names
from sfda_jax.weights.layouts import (
    deeplab_v3_plus_simclr as deeplab_v3_plus_simclr_names,
)
from sfda_jax.weights.layouts import simclr as layout
from sfda_jax.weights.layouts import simclr_torchvision as simclr_torchvision_names
from tests.golden.bismap_hash_weights import hash_weight
from tests.golden.published_weights import fill, nchw, nhwc

SYSTEM = "bismap"
_NORM = functools.partial(BatchNorm, eps=simclr.Model.bn_eps)
_BLOCK = ("backbone", "layer1_0")
_BLOCK_NAME = "net.1.blocks.0."


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * expected.std())


def hashed(init, case, **place):
    weight = functools.partial(hash_weight, salt=int(case["salt"]))
    init = functools.partial(init, jax.random.key(0), nhwc(case["x"]))
    return fill(init, layout, weight, **place)


def check_module(case, module, place, prefix):
    mode = {"use_running_average": True}
    init = functools.partial(module.init, **mode)
    variables = hashed(init, case, place=place, prefix=prefix)
    y = jax.jit(functools.partial(module.apply, **mode))(variables, nhwc(case["x"]))
    assert_close(nchw(y), case["out"])


def check_selective_kernel(path):
    case = np.load(path)
    planes, stride = int(case["out_channels"]), int(case["stride"])
    ratio, least = float(case["sk_ratio"]), int(case["min_dim"])
    unit = simclr.SelectiveKernel(planes, stride, ratio, _NORM, min_squeezed=least)
    check_module(case, unit, (*_BLOCK, "select"), f"{_BLOCK_NAME}net.2.")


def check_projection(path):
    case = np.load(path)
    unit = simclr.Projection(case["out"].shape[1], int(case["stride"]), _NORM)
    check_module(case, unit, (*_BLOCK, "projection"), f"{_BLOCK_NAME}projection.")


def check_block(path):
    case = np.load(path)
    planes, stride = int(case["out_channels"]), int(case["stride"])
    project = stride != 1 or case["x"].shape[1] != case["out"].shape[1]
    ratio = float(case["sk_ratio"])
    block = Bottleneck(planes, stride, 1, project, _NORM)
    if ratio:
        block = simclr.SelectiveBottleneck(planes, stride, project, ratio, _NORM)
    check_module(case, block, _BLOCK, _BLOCK_NAME)


def check_stem(path):
    case = np.load(path)
    model = ResNet(case["out"].shape[1], deep_stem=True, frozen_bn=False, bn_eps=1e-5)
    stem = {"method": "stem", "use_running_average": True}
    init = functools.partial(model.init, **stem)
    variables = hashed(init, case, place=("backbone",), prefix="net.0.")
    y = max_pool3x3(model.apply(variables, nhwc(case["x"]), **stem))
    assert_close(nchw(y), case["out"])


def check_network(path):
    case = np.load(path)
    model = simclr.Model()
    stage_end = f"layer1_{model.blocks[0] - 1}"

    def apply(variables, images):
        features, captured = model.apply(
            variables,
            images,
            method="features",
            capture_intermediates=lambda module, _: module.name == stage_end,
        )
        stage = captured["intermediates"]["backbone"][stage_end]["__call__"][0]
        return stage.mean((0, 1, 2)), features

    first, features = jax.jit(apply)(hashed(model.init, case), nhwc(case["x"]))
    assert_close(nchw(features), case["out"])
    assert_close(first, case["after_stage1_mean_per_channel"])


def _kept(names):
    return {
        name
        for name in names
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in layout.DROPPED)
    }


def check_names(path):
    listing = json.loads(path.read_text())
    model = simclr.Model(num_classes=listing["fc.bias"]["shape"][0])
    found = {entry.name: entry.shape for entry in published_entries(model)}
    assert found == {name: tuple(listing[name]["shape"]) for name in _kept(listing)}


def check_key_map(path):
    """The two layouts of R101 sk0, and both as DeepLabV3+'s backbone."""
    listing = json.loads(path.read_text())
    entries = published_entries(simclr.Model(**simclr.PUBLISHED["r101_sk0"]))
    assert {entry.name for entry in entries} == _kept(listing)
    for entry in entries:
        expected = listing[entry.name]
        _, torchvision = simclr_torchvision_names.published_name(entry.path)
        if entry.path[0] == "head":
            assert expected is None
        else:
            assert torchvision == expected
            place = "resnet", entry.name
            assert deeplab_v3_plus_simclr_names.published_name(entry.path) == place
            _, name = deeplab_v3_plus_names.published_name(entry.path)
            assert name == f"backbone.{expected}"


CHECKERS = {
    "net_simclr_selective_kernel*.npz": check_selective_kernel,
    "net_simclr_projection*.npz": check_projection,
    "net_simclr_block*.npz": check_block,
    "net_simclr_stem*.npz": check_stem,
    "net_simclr_r152_sk1*.npz": check_network,
    "simclr_r152_sk1_state_dict*.json": check_names,
    "simclr_r101_sk0_to_backbone_key_map*.json": check_key_map,
}
