"""Conversions that are right pass, conversions that are wrong do not."""

import numpy as np
import pytest

from sfda_jax.errors import CheckpointError
from sfda_jax.models import deeplab_v2
from sfda_jax.weights import verify
from sfda_jax.weights.convert import fill, save_published, to_torch
from sfda_jax.weights.verify import (
    compare_with_torch,
    published_arrays,
    verify_source,
    verify_written,
)
from tests.weights.networks import DEEPLAB, SIZES, VGG, random_state


def test_bits_both_ways(tmp_path, monkeypatch):
    monkeypatch.setattr(verify, "FORWARDS", {})
    state = random_state(DEEPLAB)
    filled = fill(to_torch(state, DEEPLAB), DEEPLAB)
    first, second = verify_source(filled)
    assert first.endswith(f"{len(filled.report.matched)} arrays are bit-identical")
    assert "there is no PyTorch network for deeplab_v2" in second
    save_published(tmp_path / "m.pth", state, DEEPLAB)
    assert "bit-identical" in verify_written(tmp_path / "m.pth", state, DEEPLAB)
    with pytest.raises(CheckpointError, match="not what was written"):
        verify_written(tmp_path / "m.pth", random_state(DEEPLAB, seed=1), DEEPLAB)


def test_narrow_and_wide_numbers(monkeypatch):
    monkeypatch.setattr(verify, "FORWARDS", {})
    tree = to_torch(random_state(VGG), VGG)
    weight = np.float64([0.1, 0.2, 0.3])
    half = {s: {n: a.astype(np.float16) for n, a in d.items()} for s, d in tree.items()}
    assert "bit-identical" in verify_source(fill(half, VGG))[0]
    tree["classifier"]["conv2d_list.0.bias"] = weight
    with pytest.raises(CheckpointError, match="more than 32 bits"):
        # 0.1 has no exact float32.
        try:
            verify_source(fill(tree, VGG))
        except CheckpointError as error:
            raise CheckpointError(f"{error.message} {error.hint}") from error


def test_without_pytorch_it_says_so(monkeypatch):
    monkeypatch.setattr(verify.importlib.util, "find_spec", lambda name: None)
    said = compare_with_torch(random_state(VGG), VGG, "deeplab_v2_vgg", {})
    assert "PyTorch is not installed" in said


@pytest.mark.parametrize("preset", ["stable_st", "crst", "iast", "atp"])
def test_resnet_logits_are_pytorch_s(preset):
    pytest.importorskip("torch")
    settings = {**deeplab_v2.PUBLISHED[preset], **SIZES}
    model = deeplab_v2.Model(num_classes=3, **settings)
    layout = "deeplab_v2" if preset == "stable_st" else f"deeplab_v2_{preset}"
    _check_against_torch(model, layout)


def test_vgg_logits_are_pytorch_s():
    pytest.importorskip("torch")
    _check_against_torch(VGG, "deeplab_v2_vgg")


def _check_against_torch(model, layout):
    state = random_state(model)
    arrays = published_arrays(state, model, layout)
    said = compare_with_torch(state, model, layout, arrays)
    assert "largest difference of logits to PyTorch" in said
    part = dict(list(arrays.items())[:-1])
    assert "only a part" in compare_with_torch(state, model, layout, part)
    with pytest.raises(CheckpointError, match="does not compute what PyTorch does"):
        compare_with_torch(random_state(model, seed=1), model, layout, arrays)
