"""A network from its file alone, and the table of known files."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sfda_jax.errors import CheckpointError, ConfigError
from sfda_jax.models import deeplab_v2, tiny
from sfda_jax.registry import list_names
from sfda_jax.weights import published_files
from sfda_jax.weights.convert import save_published, to_torch, write_network
from sfda_jax.weights.layout import (
    abstract_state,
    flatten,
    layout_names,
    layouts_of_kind,
)
from sfda_jax.weights.networks import NETWORKS, measure
from sfda_jax.weights.torch_file import write_torch_file
from sfda_jax.weights.zoo import format_models, list_models, load_model
from tests.weights.networks import DEEPLAB, SIZES, VGG, assert_equal, random_state


@pytest.mark.parametrize("model", [DEEPLAB, VGG], ids=["deeplab_v2", "vgg"])
@pytest.mark.parametrize("name", ["m.pth", "m.safetensors", "folder"])
def test_kind_classes_and_sizes_come_from_the_file(tmp_path, model, name):
    state = random_state(model)
    write_network(tmp_path / name, state, model)
    found, variables = load_model(tmp_path / name)
    assert found == model
    assert_equal(variables, state.variables)
    images = jnp.zeros((1, 33, 33, 3))
    logits = jax.jit(found.apply)(variables, images).logits
    assert logits.shape[-1] == 3


def test_groups_of_vgg_that_follow_each_other_without_pooling(tmp_path):
    model = VGG.clone(blocks=(2, 2, 3, 3, 3))
    state = random_state(model)
    save_published(tmp_path / "m.pth", state, model)
    found, variables = load_model(tmp_path / "m.pth")
    assert found == model
    assert_equal(variables, state.variables)


@pytest.mark.parametrize("preset", ["crst", "iast", "atp"])
def test_the_layout_tells_variants_apart(tmp_path, preset):
    settings = {**deeplab_v2.PUBLISHED[preset], **SIZES}
    model = deeplab_v2.Model(num_classes=16, **settings)
    state = random_state(model)
    layout = f"deeplab_v2_{preset}"
    save_published(tmp_path / "m.pth", state, model, layout=layout)
    found, variables = load_model(tmp_path / "m.pth")
    assert found == model
    assert_equal(variables, state.variables)


def test_folders_know_any_network(tmp_path):
    model = tiny.Model(num_classes=4, width=4, block_dilations=(2,))
    state = random_state(model)
    write_network(tmp_path / "m", state, model)
    found, variables = load_model(tmp_path / "m")
    assert found == model
    assert_equal(variables, state.variables)
    write_network(tmp_path / "m.pth", state, model, layout="ours")
    with pytest.raises(CheckpointError, match="no network that is known"):
        load_model(tmp_path / "m.pth")
    sizes = {"width": 4, "block_dilations": (2,)}
    found, _ = load_model(tmp_path / "m.pth", kind="tiny", **sizes)
    assert found == model
    with pytest.raises(CheckpointError, match="closest to tiny") as caught:
        load_model(tmp_path / "m.pth", kind="tiny")
    assert "kind='tiny'" in caught.value.hint


def test_what_cannot_be_told_is_asked_for(tmp_path):
    write_torch_file(tmp_path / "other.pth", {"encoder.weight": np.zeros(3)})
    with pytest.raises(CheckpointError, match=r"other\.pth: .*no network"):
        load_model(tmp_path / "other.pth")
    with pytest.raises(ConfigError, match="Did you mean 'deeplab_v2'"):
        load_model(tmp_path / "other.pth", kind="deeplabv2")
    with pytest.raises(ConfigError, match="Did you mean 'deeplab_v2_crst'"):
        load_model(tmp_path / "other.pth", layout="deeplab_v2_crts")
    arrays = to_torch(random_state(DEEPLAB), DEEPLAB, "deeplab_v2_crst")[""]
    backbone = {n: a for n, a in arrays.items() if not n.startswith("layer5")}
    write_torch_file(tmp_path / "backbone.pth", backbone)
    with pytest.raises(CheckpointError, match="closest to deeplab_v2") as caught:
        load_model(tmp_path / "backbone.pth")
    assert "imagenet:PATH" in caught.value.hint
    with pytest.raises(CheckpointError) as caught:
        load_model(tmp_path / "G2C_model_iter020000.pth")
    assert "download" in caught.value.hint


def test_stated_hashes_are_checked(tmp_path, monkeypatch):
    path = tmp_path / "resnet101-5d3b4d8f.pth"
    write_torch_file(path, {"conv1.weight": np.zeros((2, 3, 7, 7), np.float32)})
    with pytest.raises(CheckpointError, match="5d3b4d8f") as caught:
        load_model(path)
    assert "download it again" in caught.value.hint
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    known = published_files.known_file(path)
    as_published = published_files.dataclasses.replace(known, sha256=digest[:8])
    monkeypatch.setattr(published_files, "FILES", (as_published,))
    with pytest.raises(CheckpointError, match="no classifier"):
        load_model(path)


def test_table_is_consistent():
    rows = list_models()
    assert len({row.name for row in rows}) == len(rows) > 10
    layouts = {n for kind in list_names("models") for n in layout_names(kind)}
    for row in rows:
        network = NETWORKS[row.network.removesuffix(" (backbone)")]
        assert network.parameters > 1 and network.gflops > 1
        assert row.layout in layouts | {"torchvision"}
        assert row.sha256 and row.licence
    text = format_models(rows)
    assert all(row.name in text for row in rows)


def test_presets_and_marks_exist():
    for network in NETWORKS.values():
        network.build()
        for layout in layouts_of_kind(network.kind, network.layout):
            assert all(layout.published_name(mark) for mark in network.marks)
        assert network.marks


@pytest.mark.parametrize("name", ["deeplab_v2", "deeplab_v2_vgg", "segformer_b0"])
def test_measured_sizes_are_the_table_s(name):
    network = NETWORKS[name]
    model = network.build()
    parameters, gflops = measure(model)
    assert set(network.marks) <= set(flatten(abstract_state(model))["params"])
    assert round(parameters, 2) == network.parameters
    # XLA counts what it is given; another version may trace a little differently.
    assert gflops == pytest.approx(network.gflops, rel=0.01)
