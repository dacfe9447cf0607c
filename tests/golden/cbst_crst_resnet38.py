"""ResNet-38 A1 and its checkpoint layout, and MXNet's parameter files."""

import functools
import json
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from sfda_jax.models import wide_resnet38
from sfda_jax.models.layers import BatchNorm
from sfda_jax.models.parameter_groups import cbst_rate_and_decay
from sfda_jax.weights.layout import published_entries, to_ours, unflatten
from sfda_jax.weights.layouts import wide_resnet38 as layout
from sfda_jax.weights.mxnet_file import read_mxnet_file
from tests.golden.published_weights import fill, nchw, nhwc, published

SYSTEM = "cbst_crst"
_NORM = functools.partial(BatchNorm, fixed=True, eps=wide_resnet38.Model.bn_eps)
_BLOCK = ("backbone", "layer2_0")


def block_of(case):
    """The block that a case's `spec` describes, its defaults filled in."""
    spec = json.loads(str(case["spec"]))
    kernels = spec.get("kernel", [3, 3])
    filters = spec["filters"]
    planes = filters if isinstance(filters, list) else [filters] * len(kernels)
    assert kernels == ([3, 3] if len(planes) == 2 else [1, 3, 1])
    stride, dilation = spec.get("stride", 1), spec.get("dilate", 1)
    later = dilation
    if spec.get("inc_dilate"):
        stride, later = 1, dilation * stride
    return wide_resnet38.Block(
        tuple(planes),
        stride,
        (dilation, later),
        not spec.get("identity_map", True),
        0.0,
        _NORM,
    )


def recorded(case):
    """Published name → array of a block case, which calls its block X."""

    def weight(name, shape):
        name = name.replace("2a_", "X_", 1)
        return case[f"{'aux' if 'moving' in name else 'param'}/{name}"]

    return weight


def check_block(path):
    case = np.load(path)
    block, x = block_of(case), nhwc(case["x"])
    call = {"deterministic": False, "use_running_average": False}
    init = functools.partial(block.init, jax.random.key(0), x, **call)
    variables = fill(init, layout, recorded(case), place=_BLOCK)
    statistics = variables["batch_stats"]

    def output(params, x):
        state = {"params": params, "batch_stats": statistics}
        return block.apply(state, x, mutable=["batch_stats"], **call)

    @jax.jit
    def run(params, x, head_gradient):
        y, pullback, changed = jax.vjp(output, params, x, has_aux=True)
        return y, changed["batch_stats"], *pullback(head_gradient)

    head_gradient = nhwc(case["head_grad"])
    y, changed, *gradients = run(variables["params"], x, head_gradient)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    close(nchw(y), case["y"])
    jax.tree.map(np.testing.assert_array_equal, changed, statistics)
    found = published({"params": gradients[0]}, layout, place=_BLOCK)
    found = {name.replace("2a_", "X_", 1): array for name, array in found.items()}
    found["data"] = nchw(gradients[1])
    assert len(found) == sum(key.startswith("grad/") for key in case.files)
    for name, gradient in found.items():
        close(gradient, case[f"grad/{name}"], err_msg=name)


def drawn(entry, base: int) -> np.ndarray:
    """The parameter of this entry, by the rule of the cases' README."""
    seed = zlib.crc32(entry.name.encode()) ^ base
    rng = np.random.RandomState(seed)
    if len(entry.shape) == 4:
        array = rng.standard_normal(entry.shape)
        array *= np.sqrt(1 / np.prod(entry.shape[1:]))
    else:
        ending = entry.name.rsplit("_", 1)[-1]
        bounds = {"gamma": (0.8, 1.2), "var": (0.8, 1.2), "mean": (-0.2, 0.2)}
        array = rng.uniform(*bounds.get(ending, (-0.1, 0.1)), entry.shape)
    return array.astype(np.float32)


def check_network(path):
    case = np.load(path)
    model = wide_resnet38.Model(num_classes=int(case["classes"]))
    flat = {"params": {}, "batch_stats": {}}
    for entry in published_entries(model):
        array = drawn(entry, int(case["base"]))
        array = to_ours(layout, entry.path, array)
        flat[entry.collection][entry.path] = jnp.asarray(array)

    def apply(variables, images):
        return model.apply(
            variables,
            images,
            capture_intermediates=lambda m, _: isinstance(m, wide_resnet38.Block),
        )

    output, captured = jax.jit(apply)(unflatten(flat).variables, nhwc(case["x"]))
    blocks = captured["intermediates"]["backbone"]
    taps = {
        f"_plus{index}_output": blocks[name]["__call__"][0]
        for index, name in enumerate(sorted(blocks))
    }
    taps["relu7_output"] = output.features
    taps[f"linear{model.num_classes}_output"] = output.logits
    taps["softmax_output"] = jax.nn.softmax(output.logits)
    taps = {name: nchw(tap) for name, tap in taps.items()}
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
    close(nchw(output.logits), case["logits"])
    close(taps["softmax_output"], case["prob"])
    close(taps["relu7_output"][:, :4], case["relu7_first4"])
    close(taps["_plus0_output"][:, :2], case["plus0_first2"])
    close(taps["_plus12_output"][:, :4], case["plus12_first4"])
    for name, expected in zip(
        case["tap_names"], case["tap_mean_std_absmax"], strict=True
    ):
        tap = taps[str(name)].astype(np.float64)
        found = tap.mean(), tap.std(), np.abs(tap).max()
        np.testing.assert_allclose(found, expected, rtol=1e-3, err_msg=str(name))


def check_names(path):
    listing = json.loads(path.read_text())
    expected = {e["mxnet"]: e for e in listing["cls19_s8"]}
    _check_listing(19, expected)
    others = {e["mxnet"]: e for e in listing["cls16_s8_differences"]}
    shared = {name: e for name, e in expected.items() if "linear" not in name}
    _check_listing(16, {**shared, **others})


def _check_listing(num_classes, expected):
    model = wide_resnet38.Model(num_classes=num_classes)
    entries = published_entries(model)
    shapes = {f"{e.section}:{e.name}": list(e.shape) for e in entries}
    assert shapes == {name: e["shape"] for name, e in expected.items()}
    for entry in entries:
        if entry.trainable:
            wanted = expected[f"{entry.section}:{entry.name}"]
            multipliers = wanted["lr_mult"], wanted["wd_mult"]
            assert cbst_rate_and_decay(entry.path) == multipliers


def check_mxnet_file(path):
    case = np.load(path)
    expected = {key.replace("/", ":"): case[key] for key in case.files}
    files = sorted(path.parent.glob(f"{path.stem}*.params"))
    assert files
    for file in files:
        tree = read_mxnet_file(file)
        found = {f"{s}:{n}": array for s in tree for n, array in tree[s].items()}
        assert found.keys() == expected.keys()
        for name, array in found.items():
            assert array.dtype == expected[name].dtype
            np.testing.assert_array_equal(array, expected[name])


CHECKERS = {
    "rna_block_*.npz": check_block,
    "rna_full_*.npz": check_network,
    "rna_a1_params*.json": check_names,
    "mxnet_params_*.npz": check_mxnet_file,
}
