import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from sfda_jax.errors import CheckpointError
from sfda_jax.models import deeplab_v2, deeplab_v2_vgg
from sfda_jax.types import ModelState
from sfda_jax.weights.convert import load_published, save_published, to_flax, to_torch
from sfda_jax.weights.layout import abstract_state
from sfda_jax.weights.torch_file import read_torch_file, write_torch_file

MODEL = deeplab_v2.Model(
    num_classes=3, stem_channels=2, planes=(1, 1, 2, 2), blocks=(1, 2, 1, 1)
)
VGG = deeplab_v2_vgg.Model(
    num_classes=3, planes=(2, 2, 3, 3, 3), blocks=(1, 2, 1, 1, 1), fc_planes=4
)


def _random(model, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32),
        abstract_state(model),
    )


def _assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture
def tree():
    return to_torch(_random(MODEL), MODEL)


@pytest.mark.parametrize("model", [MODEL, VGG])
def test_round_trip_is_lossless(tmp_path, model):
    state = _random(model)
    save_published(tmp_path / "m.pth", state, model, iteration=20_000)
    _assert_equal(load_published(tmp_path / "m.pth", model).state, state)
    tree = read_torch_file(tmp_path / "m.pth")
    assert list(tree) == ["iteration", "feature_extractor", "classifier"]
    assert tree["iteration"] == 20_000
    _assert_equal(to_torch(to_flax(tree, model), model), to_torch(state, model))


def test_names_and_layout(tree):
    backbone = tree["feature_extractor"]
    assert backbone["backbone.conv1.weight"].shape == (2, 3, 7, 7)
    assert backbone["backbone.layer2.1.bn2.running_var"].shape == (1,)
    assert backbone["backbone.layer3.0.downsample.0.weight"].shape == (8, 4, 1, 1)
    assert tree["classifier"]["conv2d_list.3.weight"].shape == (3, 8, 3, 3)
    kernel = _random(MODEL).params["head"]["branch3"]["kernel"]
    weight = tree["classifier"]["conv2d_list.3.weight"]
    assert kernel[0, 1, 2, 0] == weight[0, 2, 0, 1]


def test_prefixes_extras_and_source_checkpoints(tree):
    backbone = {f"module.{k}": v for k, v in tree["feature_extractor"].items()}
    backbone["module.backbone.bn1.num_batches_tracked"] = np.zeros((), np.int64)
    backbone["module.backbone.fc.weight"] = np.zeros((1000, 8), np.float32)
    checkpoint = {
        "iteration": 1,
        "feature_extractor": backbone,
        "classifier": tree["classifier"],
        "optimizer_fea": {"state": {}},
    }
    _assert_equal(to_flax(checkpoint, MODEL), _random(MODEL))
    backbone["stray"] = np.zeros(1)
    with pytest.raises(CheckpointError, match=r"module\.backbone"):
        to_flax(checkpoint, MODEL)


def test_imagenet_file_needs_backbone_only_and_keeps_the_head(tmp_path, tree):
    names = tree["feature_extractor"].items()
    imagenet = {name.removeprefix("backbone."): value for name, value in names}
    imagenet["fc.weight"] = np.zeros((1000, 8), np.float32)
    imagenet["fc.bias"] = np.zeros(1000, np.float32)
    write_torch_file(tmp_path / "r.pth", imagenet)
    with pytest.raises(
        CheckpointError, match=r"(?s)r\.pth.*missing classifier/conv2d_list"
    ):
        load_published(tmp_path / "r.pth", MODEL)
    initial = _random(MODEL, seed=1)
    loaded = load_published(
        tmp_path / "r.pth", MODEL, backbone_only=True, initial=initial
    )
    state = loaded.state
    _assert_equal(state.params["head"], initial.params["head"])
    _assert_equal(state.params["backbone"], _random(MODEL).params["backbone"])
    _assert_equal(state.batch_stats, _random(MODEL).batch_stats)
    drawn = load_published(tmp_path / "r.pth", MODEL, backbone_only=True).state
    assert jnp.abs(drawn.params["head"]["branch0"]["kernel"]).max() < 0.1


def test_faults_name_the_closest_and_can_be_waived(tree):
    backbone = tree["feature_extractor"]
    backbone["backbone.layer1.0.konv1.weight"] = backbone.pop(
        "backbone.layer1.0.conv1.weight"
    )
    tree["classifier"]["conv2d_list.0.bias"] = np.zeros(5, np.float32)
    with pytest.raises(CheckpointError) as caught:
        to_flax(tree, MODEL)
    message = caught.value.message
    assert "missing feature_extractor/backbone.layer1.0.conv1.weight" in message
    assert "closest: feature_extractor/backbone.layer1.0.konv1.weight" in message
    assert "conv2d_list.0.bias has shape (5,), expected (3,)" in message
    initial = _random(MODEL, seed=1)
    waive = ("*/backbone.layer1.0.?onv1.weight", "classifier/*.bias")
    state = to_flax(tree, MODEL, waive=waive, initial=initial)
    for path in (
        ("backbone", "layer1_0", "conv1", "kernel"),
        ("head", "branch0", "bias"),
    ):
        found, expected = state.params, initial.params
        for key in path:
            found, expected = found[key], expected[key]
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("tree", [{}, {"state_dict": {}}, [1]])
def test_other_files_are_refused(tree):
    with pytest.raises(CheckpointError, match="feature_extractor"):
        to_flax(tree, MODEL)


def test_models_without_a_published_layout():
    class Model(nn.Module):
        pass

    with pytest.raises(CheckpointError, match="No published checkpoint layout"):
        to_torch(ModelState(params={}, batch_stats={}), Model())


def test_other_variables_are_refused(tree):
    other = abstract_state(MODEL.clone(num_classes=4))
    with pytest.raises(CheckpointError, match="differ"):
        to_flax(tree, MODEL, other)
