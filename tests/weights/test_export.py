"""Exported files, loaded and run beside the network."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sfda_jax.errors import CheckpointError, ConfigError
from sfda_jax.models import deeplab_v2, tiny
from sfda_jax.models.forward import network_input
from sfda_jax.tasks import class_space
from sfda_jax.weights import export
from sfda_jax.weights.export import write_export
from tests.weights.networks import SIZES, random_state

SIZE = (24, 40)
MODEL = tiny.Model(num_classes=19, width=4, block_dilations=(2,))


def _images(count):
    shape = (count, *SIZE, 3)
    return np.random.default_rng(1).integers(0, 256, shape, np.uint8)


def test_stablehlo_of_any_batch(tmp_path):
    state = random_state(MODEL)
    classes = class_space("cityscapes19")
    said = write_export(tmp_path / "out", MODEL, state, size=SIZE, classes=classes)
    assert "0 of 1920 class ids differ" in said
    data = (tmp_path / "out" / "model.stablehlo").read_bytes()
    exported = jax.export.deserialize(bytearray(data))
    for count in (1, 3):
        images = _images(count)
        logits, class_ids = exported.call(images)
        assert logits.shape == (count, *SIZE, 19) and class_ids.dtype == jnp.int32
        np.testing.assert_array_equal(class_ids, np.argmax(logits, -1))
        at_stride = MODEL.apply(
            state.variables, network_input(MODEL, jnp.asarray(images))
        ).logits
        np.testing.assert_allclose(logits[:, 0, 0], at_stride[:, 0, 0], rtol=1e-4)
    described = json.loads((tmp_path / "out" / "model.json").read_text())
    assert described["inputs"]["images"][1] == ["any", *SIZE, 3]
    assert described["network"]["kind"] == "tiny"
    assert described["classes"][0] == "road" and len(described["palette"]) == 19


def test_fixed_batch_and_pooling(tmp_path):
    model = deeplab_v2.Model(num_classes=3, **SIZES)
    write_export(tmp_path, model, random_state(model), size=SIZE, batch=2)
    data = (tmp_path / "model.stablehlo").read_bytes()
    exported = jax.export.deserialize(bytearray(data))
    assert exported.in_avals[0].shape == (2, *SIZE, 3)
    with pytest.raises(ValueError, match="shape"):
        exported.call(_images(1))


def test_wrong_files_are_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(
        export,
        "_load_stablehlo",
        lambda path: lambda x: (np.float32(x[..., :1]), x[..., 0]),
    )
    with pytest.raises(CheckpointError, match="logits are off"):
        write_export(tmp_path, MODEL, random_state(MODEL), size=SIZE)


def test_formats_and_missing_libraries(tmp_path, monkeypatch):
    state = random_state(MODEL)
    with pytest.raises(ConfigError, match="Did you mean 'onnx'"):
        write_export(tmp_path, MODEL, state, size=SIZE, format="onx")
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(ConfigError, match="jax2onnx") as caught:
        write_export(tmp_path, MODEL, state, size=SIZE, format="onnx")
    assert "--no-deps" in caught.value.hint
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("batch", [0, 2])
@pytest.mark.parametrize(
    "model", [MODEL, deeplab_v2.Model(num_classes=3, **SIZES)], ids=["tiny", "deeplab"]
)
def test_onnx(tmp_path, model, batch):
    pytest.importorskip("jax2onnx")
    runtime = pytest.importorskip("onnxruntime")
    state = random_state(model)
    write_export(tmp_path, model, state, size=SIZE, batch=batch, format="onnx")
    session = runtime.InferenceSession(str(tmp_path / "model.onnx"))
    logits, class_ids = session.run(None, {"images": _images(2)})
    expected, _ = jax.jit(export.prediction(model, state, SIZE))(_images(2))
    largest = float(np.abs(expected).max())
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5 * largest)
    assert class_ids.dtype == np.int32
