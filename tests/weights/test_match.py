"""One network in every nesting, spelling and layout that files are found in."""

import types

import jax
import numpy as np
import pytest

from sfda_jax.errors import CheckpointError, ConfigError
from sfda_jax.models import deeplab_v2, wide_resnet38
from sfda_jax.weights.convert import fill, to_flax, to_torch
from sfda_jax.weights.layout import (
    abstract_state,
    entries_of,
    layout_names,
    published_entries,
    to_ours,
    to_published,
)
from sfda_jax.weights.match import class_count, match
from tests.weights.networks import DEEPLAB, SIZES, VGG, assert_equal, random_state

LAYOUTS = [n for n in layout_names("deeplab_v2") if n != "deeplab_v2_atp"]
PUBLISHED = {"deeplab_v2_crst": "crst", "deeplab_v2_iast": "iast"}


@pytest.fixture
def state():
    return random_state(DEEPLAB)


@pytest.fixture
def flat(state):
    arrays = to_torch(state, DEEPLAB, "deeplab_v2_iast")[""]
    return {name: array.copy() for name, array in arrays.items()}


def _prefixed(prefix, arrays):
    return {f"{prefix}{name}": array for name, array in arrays.items()}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_found_out(state, layout):
    tree = to_torch(state, DEEPLAB, layout)
    tree = tree.get("", tree)
    filled = fill(tree, DEEPLAB)
    assert filled.report.layout == layout
    assert_equal(filled.state, state)
    back = to_torch(filled.state, DEEPLAB, layout)
    assert_equal(back.get("", back), tree)


def test_deep_stem_layout():
    model = DEEPLAB.clone(**deeplab_v2.PUBLISHED["atp"])
    state = random_state(model)
    tree = to_torch(state, model, "deeplab_v2_atp")[""]
    assert "backbone.stem.6.weight" in tree
    filled = fill({"meta": {"iter": 1}, "state_dict": tree}, model)
    assert filled.report.layout == "deeplab_v2_atp"
    assert_equal(filled.state, state)


@pytest.mark.parametrize(
    "nest",
    [
        lambda d: d,
        lambda d: {"state_dict": d, "epoch": 3},
        lambda d: {"model": d},
        lambda d: {"model_state_dict": _prefixed("module.", d)},
        lambda d: {"DeepLabV2": {"model_state": d, "scheduler_state": {}}},
        lambda d: _prefixed("module.model.", d),
        lambda d: {"state_dict": _prefixed("model.", d), "best": np.float32(1)},
        lambda d: {"network": {"weights": d}},
    ],
)
def test_nestings_and_wrappers(state, flat, nest):
    tree = nest(flat)
    tree["optimizer"] = {"state": {0: {"momentum": np.zeros(3)}}, "flat": flat}
    filled = fill(tree, DEEPLAB)
    assert_equal(filled.state, state)
    assert "optimizer" in filled.report.ignored


def test_backbone_prefix_is_added_and_taken_away(state):
    entries = to_torch(state, DEEPLAB, "deeplab_v2_crst")[""].items()
    bare = {n: a for n, a in entries if not n.startswith("layer5")}
    for names in (bare, _prefixed("backbone.", bare), _prefixed("module.", bare)):
        loaded = to_flax(names, DEEPLAB, backbone_only=True, initial=state)
        assert_equal(loaded, state)


@pytest.mark.parametrize(
    ("nest", "entry"),
    [
        (lambda s, t: {"student": s, "teacher": t}, "teacher"),
        (lambda s, t: {"model": s, "ema": t}, "teacher"),
        (lambda s, t: {"model": {"state_dict": s}, "ema": {"state_dict": t}}, "ema"),
        (
            lambda s, t: {
                "state_dict": {
                    **_prefixed("model.", s),
                    **_prefixed("ema_model.", t),
                    "imnet_model.backbone.conv1.weight": s["backbone.conv1.weight"],
                }
            },
            "teacher",
        ),
        (
            lambda s, t: {
                "sd": _prefixed(
                    "module.", {**_prefixed("model.", s), **_prefixed("ema_model.", t)}
                )
            },
            "sd.ema_model",
        ),
    ],
)
def test_one_of_several_networks(flat, nest, entry):
    teacher = random_state(DEEPLAB, seed=1)
    tree = nest(flat, to_torch(teacher, DEEPLAB, "deeplab_v2_iast")[""])
    with pytest.raises(CheckpointError, match="several networks that fit") as caught:
        fill(tree, DEEPLAB)
    assert "--entry" in caught.value.hint
    assert_equal(to_flax(tree, DEEPLAB, entry=entry), teacher)


def test_unknown_entries_and_layouts_name_the_known(flat):
    tree = {"student": flat, "teacher": flat}
    with pytest.raises(CheckpointError, match="Did you mean 'teacher'"):
        fill(tree, DEEPLAB, entry="techer")
    with pytest.raises(ConfigError, match="deeplab_v2_crst"):
        fill(flat, DEEPLAB, layout="crst")
    with pytest.raises(CheckpointError, match=r"layout deeplab_v2\)"):
        fill(flat, DEEPLAB, layout="deeplab_v2")


def test_our_own_names(state):
    tree = to_torch(state, DEEPLAB, "ours")
    assert "backbone/layer2_1/conv2/kernel" in tree["params"]
    filled = fill(tree, DEEPLAB)
    assert filled.report.layout == "ours"
    assert_equal(filled.state, state)
    nested = {"params": state.params, "batch_stats": state.batch_stats}
    assert_equal(to_flax({"student": nested}, DEEPLAB), state)


def test_class_count_is_read_from_the_classifier(flat):
    assert class_count(DEEPLAB.clone(num_classes=7), match(flat, DEEPLAB)) == 3
    assert class_count(DEEPLAB, match({"conv1.weight": np.ones(2)}, DEEPLAB)) is None
    with pytest.raises(CheckpointError, match="has 3 classes, the task 16") as caught:
        fill(flat, DEEPLAB.clone(num_classes=16))
    assert "imagenet:" in caught.value.hint


def test_values_that_are_not_finite(flat):
    flat["decoder.aspp.conv2d_list.1.bias"][1] = np.nan
    flat["backbone.bn1.weight"][0] = np.inf
    with pytest.raises(CheckpointError) as caught:
        fill(flat, DEEPLAB)
    assert "backbone.bn1.weight holds NaN or infinity" in caught.value.message
    assert "conv2d_list.1.bias holds NaN" in caught.value.message
    filled = fill(flat, DEEPLAB, waive=["*.bias", "*bn1.weight"])
    assert np.isnan(filled.state.params["head"]["branch1"]["bias"][1])
    assert len(filled.report.waived) == 2


def test_large_values_are_finite(flat):
    flat["backbone.conv1.weight"][:] = 3e38
    assert not fill(flat, DEEPLAB).report.waived


def test_another_network_says_so(flat):
    other = {f"encoder.{i}.attention.weight": np.zeros(3) for i in range(20)}
    with pytest.raises(CheckpointError, match=r"holds 0 of \d+ arrays") as caught:
        fill(other, DEEPLAB)
    assert "another network" in caught.value.hint


def test_kernels_of_every_rank():
    layout = types.ModuleType("sfda_jax.weights.layouts.standin")
    layout.SECTIONS, layout.DROPPED = {"": ""}, ()
    layout.published_name = lambda path: ("", f"{path[0]}{{outputs}}")
    shapes = {
        "conv": np.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5),
        "depthwise": np.arange(9 * 6.0).reshape(3, 3, 1, 6),
        "dense": np.arange(12.0).reshape(3, 4),
        "cube": np.zeros((2, 3, 4)),
    }
    kernels = {name: {"kernel": array} for name, array in shapes.items()}
    state = jax.tree.map(lambda a: a, abstract_state(DEEPLAB))
    state = state.replace(params=kernels, batch_stats={})
    found = {e.name: e.shape for e in entries_of(layout, state)}
    assert found == {
        "conv5": (5, 4, 2, 3),
        "depthwise6": (6, 1, 3, 3),
        "dense4": (4, 3),
        "cube4": (2, 3, 4),
    }
    for name, array in shapes.items():
        there = to_published(layout, (name, "kernel"), array)
        np.testing.assert_array_equal(to_ours(layout, (name, "kernel"), there), array)
    layout.to_published = lambda path, array: array[None]
    layout.to_ours = lambda path, array: array[0]
    assert entries_of(layout, state)[2].shape == (1, 3, 4)
    assert to_ours(layout, ("dense", "kernel"), np.zeros((1, 3))).shape == (3,)


def test_no_name_stands_for_two_arrays():
    longer = VGG.clone(blocks=(1, 2, 1, 4, 1))
    with pytest.raises(CheckpointError, match=r"several arrays: .*backbone\.23"):
        published_entries(longer)


@pytest.mark.parametrize("layout", sorted(PUBLISHED))
def test_entries_of_a_chosen_layout(layout):
    model = deeplab_v2.Model(3, **{**deeplab_v2.PUBLISHED[PUBLISHED[layout]], **SIZES})
    names = {entry.key for entry in published_entries(model, layout)}
    assert len(names) == len(published_entries(model))
    assert all("/" not in name for name in names)


def test_a_classifier_named_after_its_classes():
    model = wide_resnet38.Model(
        num_classes=3, planes=((2, 2),) * 6, blocks=(1,) * 6, head_planes=2
    )
    state = random_state(model)
    tree = to_torch(random_state(model.clone(num_classes=10)), model.clone())
    assert tree["arg"]["linear10_weight"].shape[0] == 10
    assert class_count(model, match(tree, model)) == 10
    with pytest.raises(CheckpointError, match="has 10 classes, the task 3"):
        fill(tree, model)
    filled = fill(tree, model, backbone_only=True, initial=state)
    assert_equal(filled.state.params["head"], state.params["head"])
    assert "arg/linear10_weight" in filled.report.ignored
