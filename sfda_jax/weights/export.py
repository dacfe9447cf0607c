"""A network as one file that runs without this package: StableHLO or ONNX.

The exported function takes RGB images as they are stored and returns what a user wants:
normalisation and the enlarging of the logits are inside, and so are the weights.

    images    uint8   [batch, height, width, 3]
    logits    float32 [batch, height, width, classes]
    class_ids int32   [batch, height, width]
"""

import functools
import importlib
import json
import pathlib
from collections.abc import Callable
from types import ModuleType
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import export as jax_export
from jaxtyping import Array, Float, Int, UInt8

from sfda_jax.errors import CheckpointError, ConfigError
from sfda_jax.models.base import Segmenter
from sfda_jax.models.forward import network_input
from sfda_jax.ops.resize import resize_bilinear
from sfda_jax.registry import check_choice
from sfda_jax.tasks import ClassSpace
from sfda_jax.types import ModelState
from sfda_jax.weights.convert import describe

FORMATS = ("stablehlo", "onnx")
"""Formats that `write_export` knows."""

_PLATFORMS = ("cpu", "cuda", "tpu")
_MAX_DIFFERENCE = 1e-3
# More images than one, so that a fixed batch is noticed.
_CHECKED_BATCH = 2
# jax2onnx demands an older Orbax, which it does not need for this: hence --no-deps.
_ONNX_HINT = (
    "pip install 'sfda_jax[export]' && pip install --no-deps 'jax2onnx>=0.17.1'"
)

Predict = Callable[
    [UInt8[Array, "b h w 3"]],
    tuple[Float[Array, "b h w c"], Int[Array, "b h w"]],
]


def prediction(model: Segmenter, state: ModelState, size: tuple[int, int]) -> Predict:
    """`images -> (logits, class_ids)` at the images' own size, weights inside.

    Args:
        model: the network; its `align_corners` says how logits are enlarged.
        state: its variables.
        size: height and width of the images.
    """

    def predict(images):
        output = model.apply(
            state.variables,
            network_input(model, images),
            deterministic=True,
            use_running_average=True,
        )
        logits = output.logits.astype(jnp.float32)
        logits = resize_bilinear(logits, size, align_corners=model.align_corners)
        return logits, jnp.argmax(logits, axis=-1).astype(jnp.int32)

    return predict


def write_export(
    folder: pathlib.Path,
    model: Segmenter,
    state: ModelState,
    *,
    format: str = "stablehlo",
    size: tuple[int, int],
    batch: int = 0,
    classes: ClassSpace | None = None,
) -> str:
    """Writes `model.stablehlo` or `model.onnx` and `model.json`; a report.

    The written file is loaded again and run beside the network on random images.

    Args:
        folder: where to; made when missing.
        model: the network.
        state: its variables.
        format: one of `FORMATS`.
        size: height and width of the images.
        batch: images per call; 0 for any number.
        classes: names and colours for `model.json`.

    Raises:
        ConfigError: another format, or the libraries for it are not installed.
        CheckpointError: the file computes something else, or cannot be written.
    """
    check_choice("format", format, FORMATS)
    predict = prediction(model, state, size)
    write, load = {
        "stablehlo": (_to_stablehlo, _load_stablehlo),
        "onnx": (_to_onnx, _load_onnx),
    }[format]
    path = folder / f"model.{format}"
    data = write(predict, size, batch)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        text = json.dumps(_description(model, format, size, batch, classes), indent=1)
        (folder / "model.json").write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be written: {error}.") from error
    difference, disagreeing = _compare(load(path), predict, size, batch)
    return (
        f"written: {path} ({len(data) / 1e6:.1f} MB), model.json\n"
        f"run beside the network: largest difference of logits {difference:.2g}, "
        f"{disagreeing} of {(batch or _CHECKED_BATCH) * size[0] * size[1]} class ids "
        "differ"
    )


def _specification(size: tuple[int, int], batch: int) -> jax.ShapeDtypeStruct:
    count = batch or jax_export.symbolic_shape("batch")[0]
    return jax.ShapeDtypeStruct((count, *size, 3), jnp.uint8)


def _to_stablehlo(predict: Predict, size: tuple[int, int], batch: int) -> bytes:
    exported = jax_export.export(jax.jit(predict), platforms=_PLATFORMS)
    return bytes(exported(_specification(size, batch)).serialize())


def _load_stablehlo(path: pathlib.Path) -> Callable[..., Any]:
    return jax.jit(jax_export.deserialize(bytearray(path.read_bytes())).call)


def _to_onnx(predict: Predict, size: tuple[int, int], batch: int) -> bytes:
    library = _onnx_library("jax2onnx")
    padded = functools.partial(_with_padded_pooling, predict)
    model = library.to_onnx(
        padded,
        [_specification(size, batch)],
        model_name="sfda_jax",
        input_names=["images"],
        output_names=["logits", "class_ids"],
    )
    return model.SerializeToString()


def _with_padded_pooling(predict: Predict, images: Any) -> Any:
    """`predict`, padding before it pools: jax2onnx overlooks the pooling's own."""
    pool = nn.max_pool

    def max_pool(x, window_shape, strides=None, padding="VALID"):
        if not isinstance(padding, str):
            pads = ((0, 0), *padding, (0, 0))
            x, padding = jnp.pad(x, pads, constant_values=-jnp.inf), "VALID"
        return pool(x, window_shape=window_shape, strides=strides, padding=padding)

    with mock.patch.object(nn, "max_pool", max_pool):
        return predict(images)


def _load_onnx(path: pathlib.Path) -> Callable[..., Any]:
    session = _onnx_library("onnxruntime").InferenceSession(str(path))
    return lambda images: session.run(None, {"images": np.asarray(images)})


def _onnx_library(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"ONNX files need {error.name}, which is not installed.",
            hint=f"{_ONNX_HINT}; or take --format stablehlo.",
        ) from error


def _compare(
    exported: Callable[..., Any], predict: Predict, size: tuple[int, int], batch: int
) -> tuple[float, int]:
    """Largest difference of logits, and number of class ids that differ.

    Raises:
        CheckpointError: the logits differ by more than rounding.
    """
    shape = (batch or _CHECKED_BATCH, *size, 3)
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, shape, np.uint8))
    expected, expected_ids = map(np.asarray, jax.jit(predict)(images))
    logits, class_ids = map(np.asarray, exported(images))
    difference = float(np.abs(logits - expected).max())
    if not difference <= _MAX_DIFFERENCE * max(1.0, float(np.abs(expected).max())):
        raise CheckpointError(
            f"The exported file's logits are off by {difference:.3g}.",
            hint="Was the machine short of memory? Try --format stablehlo.",
        )
    return difference, int((class_ids != expected_ids).sum())


def _description(
    model: Segmenter,
    format: str,
    size: tuple[int, int],
    batch: int,
    classes: ClassSpace | None,
) -> dict[str, Any]:
    """What `model.json` says about the file."""
    count = batch or "any"
    load = {
        "stablehlo": "jax.export.deserialize(bytearray(data)).call(images)",
        "onnx": "onnxruntime.InferenceSession(path).run(None, {'images': images})",
    }
    found = {
        "format": format,
        "load": load[format],
        "inputs": {"images": ["uint8", [count, *size, 3], "RGB, 0 to 255"]},
        "outputs": {
            "logits": ["float32", [count, *size, model.num_classes], "before softmax"],
            "class_ids": ["int32", [count, *size], "largest logit"],
        },
        "network": describe(model),
    }
    if classes is not None:
        found["classes"] = list(classes.names)
        found["palette"] = np.asarray(classes.palette).tolist()
    return found
