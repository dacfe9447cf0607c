import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sfda_jax.errors import CheckpointError
from sfda_jax.models import deeplab_v3_plus, simclr, wide_resnet38
from sfda_jax.weights.convert import load_published, save_published, to_flax, to_torch
from sfda_jax.weights.layout import abstract_state

_SIZES = {"stem_channels": 4, "planes": (2, 2, 3, 4), "blocks": (1, 2, 1, 1)}
_SK1 = simclr.Model(num_classes=6, **_SIZES)
_SK0 = _SK1.clone(sk_ratio=0.0)
_RESNET38 = wide_resnet38.Model(
    num_classes=5,
    stem_channels=2,
    planes=((2, 2), (2, 2), (2, 2), (2, 3), (2, 3, 4), (3, 4, 5)),
    head_planes=3,
)


def _state(model):
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32),
        abstract_state(model),
    )


def _assert_same(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize(
    ("model", "layout", "suffix"),
    [
        (_SK1, "", ".pth"),
        (_SK1, "", ".safetensors"),
        (_SK0, "", ".pth"),
        (_SK0, "simclr_torchvision", ".pth"),
        (_RESNET38, "", ".params"),
        (_RESNET38, "", ".safetensors"),
    ],
)
def test_files_come_back_bit_by_bit(tmp_path, model, layout, suffix):
    state = _state(model)
    path = tmp_path / f"network{suffix}"
    save_published(path, state, model, layout=layout)
    _assert_same(load_published(path, model).state, state)


def test_published_files_hold_more_than_the_network():
    state = _state(_SK1)
    tree = to_torch(state, _SK1)
    count = np.zeros((), np.int64)
    tree["resnet"]["net.0.1.0.num_batches_tracked"] = count
    tree["head"] = {"layers.0.weight": np.zeros((2, 2), np.float32)}
    _assert_same(to_flax(tree, _SK1), state)


@pytest.mark.parametrize("layout", ["", "simclr_torchvision"])
def test_r101_sk0_starts_deeplab_v3_plus_in_both_layouts(layout):
    simclr_state = _state(_SK0)
    tree = to_torch(simclr_state, _SK0, layout)
    tree = {"state_dict": tree[""]} if layout else tree
    model = deeplab_v3_plus.Model(
        num_classes=5, head_channels=4, low_channels=2, **_SIZES
    )
    initial = jax.tree.map(lambda leaf: leaf + 1, _state(model))
    state = to_flax(tree, model, backbone_only=True, initial=initial)
    for collection in ("params", "batch_stats"):
        found, old, theirs = (
            getattr(s, collection) for s in (state, initial, simclr_state)
        )
        _assert_same(found["backbone"], theirs["backbone"])
        _assert_same(found["head"], old["head"])
    with pytest.raises(CheckpointError):
        to_flax(tree, model, initial=initial)


def test_selective_kernels_do_not_fit_a_plain_network():
    with pytest.raises(CheckpointError, match="does not fit simclr"):
        to_flax(to_torch(_state(_SK1), _SK1), _SK0)


def test_resnet38_starts_from_a_classification_network():
    state = _state(_RESNET38)
    tree = to_torch(state, _RESNET38)
    assert {"linear5_weight", "conv6a_bias", "bn5b2_branch2b1_beta"} <= {*tree["arg"]}
    assert {name.rsplit("_", 2)[1] for name in tree["aux"]} == {"moving"}
    other = _RESNET38.clone(num_classes=7)
    with pytest.raises(CheckpointError, match="it has 5 classes, the task 7"):
        to_flax(tree, other, initial=_state(other))
    for name in ("linear5_weight", "linear5_bias", "conv6a_weight", "conv6a_bias"):
        del tree["arg"][name]
    tree["arg"]["linear1000_weight"] = np.zeros((1000, 5), np.float32)
    tree["arg"]["linear1000_bias"] = np.zeros(1000, np.float32)
    initial = _state(other)
    found = to_flax(tree, other, backbone_only=True, initial=initial)
    _assert_same(found.params["backbone"], state.params["backbone"])
    _assert_same(found.params["head"], initial.params["head"])
