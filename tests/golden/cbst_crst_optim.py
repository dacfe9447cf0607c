"""Learning rates, optimisers and the values of every round, of CBST and CRST."""

import functools
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from sfda_jax.losses.cross_entropy import mean_cross_entropy
from sfda_jax.losses.model_regularizers import confidence_regularised_loss
from sfda_jax.methods.cbst_rounds import EPOCHS, cbst_rounds
from sfda_jax.models import wide_resnet38
from sfda_jax.models.layers import BatchNorm, Conv
from sfda_jax.models.resnet import Bottleneck
from sfda_jax.ops.resize import resize_bilinear
from sfda_jax.ops.schedules import poly
from sfda_jax.train.optim import OptimizerSettings, make_optimizer
from sfda_jax.weights.layouts import wide_resnet38 as mxnet_layout
from sfda_jax.weights.layouts.torchvision_resnet import layer_name
from tests.golden.published_weights import fill, nchw, nhwc, published, stored

SYSTEM = "cbst_crst"


def check_mxnet_rates(path):
    case = np.load(path)
    done = case["num_update"] - int(case["offset"])
    base, end = float(case["base_lr"]), float(case["stop_lr"])
    length = {"base": base, "max_steps": int(case["updates"])}
    for name, settings in (
        ("fixed", {"power": 0.0}),
        ("linear", {"power": 1.0, "end": end}),
        ("poly", {"power": 0.9, "end": end}),
    ):
        rates = functools.partial(poly, **length, **settings)
        np.testing.assert_allclose(rates(done), case[name], rtol=1e-12)
        found = jax.jit(rates)(jnp.asarray(done, jnp.int32))
        np.testing.assert_allclose(found, case[name], rtol=1e-6)


def check_crst_rates(path):
    case = np.load(path)
    for power, expected in zip(case["power"], case["lr"], strict=True):
        found = poly(
            case["iters"],
            base=float(case["base"]),
            max_steps=int(case["max_iter"]),
            power=float(power),
        )
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def descend(case, gradient_of, params, settings):
    """What `gradient_of` returns beside the gradients, and the parameters after each
    step."""
    optimizer = make_optimizer(settings)
    update, state = jax.jit(optimizer.update), optimizer.init(params)
    values, after = [], []
    for images, labels in zip(case["x"], case["label"], strict=True):
        labels = jnp.asarray(labels.astype(np.int32))
        value, gradient = gradient_of(params, nhwc(images), labels)
        updates, state = update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        values.append(value)
        after.append(params)
    return values, after


def check_params(found, case, prefix):
    names = [key for key in case.files if key.startswith(prefix)]
    assert names
    for key in names:
        array = found[key.removeprefix(prefix)]
        np.testing.assert_allclose(array, case[key], 2e-4, 2e-6, err_msg=key)


def _resnet38(case):
    """The small net of the case: one level of stride 2 above the stem."""
    shapes = {key: case[key].shape for key in case.files if key.startswith("param0/")}
    stem = shapes["param0/conv1a_weight"][0]
    units = sorted(key for key in shapes if key.endswith("_branch2b1_weight"))
    planes = tuple(
        shapes[f"param0/res2a_{branch}_weight"][0]
        for branch in ("branch2a", "branch2b1")
    )
    return wide_resnet38.Model(
        num_classes=case["prob"].shape[2],
        stem_channels=stem,
        planes=(planes,),
        blocks=(len(units),),
        strides=(2,),
        dropouts=(0.0,),
        head_planes=shapes["param0/conv6a_weight"][0],
    )


def check_mxnet_steps(path):
    case = np.load(path)
    model, images = _resnet38(case), nhwc(case["x"][0])

    def weight(name, shape):
        return case[("aux/" if "moving" in name else "param0/") + name]

    init = functools.partial(model.init, jax.random.key(0), images)
    layout = _with_outputs(mxnet_layout, case["prob"].shape[2])
    variables = fill(init, layout, weight)

    def loss(params, images, labels):
        call = {"deterministic": False, "use_running_average": False}
        logits = model.apply({**variables, "params": params}, images, **call).logits
        labels = labels.reshape(logits.shape[:3])
        return mean_cross_entropy(logits, labels, denominator="kept"), logits

    settings = OptimizerSettings(
        name="mxnet_sgd",
        learning_rate=float(case["lr"]),
        schedule="constant",
        momentum=float(case["momentum"]),
        weight_decay=float(case["wd"]),
        groups="cbst",
    )
    gradient_of = jax.jit(jax.value_and_grad(loss, has_aux=True))
    values, after = descend(case, gradient_of, variables["params"], settings)
    for t, params in enumerate([variables["params"], *after]):
        check_params(published({"params": params}, layout), case, f"param{t}/")
    for (_, logits), expected in zip(values, case["prob"], strict=True):
        probs = nchw(jax.nn.softmax(logits))
        np.testing.assert_allclose(probs, expected, rtol=2e-4, atol=2e-6)


def _with_outputs(layout, outputs):
    """The layout with `{outputs}` of its names filled in."""
    module = types.ModuleType("with_outputs")

    def published_name(path):
        section, name = layout.published_name(path)
        return section, name.format(outputs=outputs)

    module.published_name = published_name
    return module


class _SmallBackbone(nn.Module):
    """CRST's ResNet behind a 3x3 stem, `planes` and `blocks` per stage.

    The case does not describe it; this is what has its loss. As in the published code
    every dilated stage begins with a projection.
    """

    stem_channels: int
    planes: tuple[int, ...]
    blocks: tuple[int, ...]

    @nn.compact
    def __call__(self, x):
        norm = functools.partial(BatchNorm, eps=1e-5, fixed=True, frozen=True)
        call = {"use_running_average": False}
        x = Conv(self.stem_channels, 3, padding=1, name="conv1")(x)
        x = nn.relu(norm(name="bn1")(x, **call))
        for stage, (stride, dilation) in enumerate(((1, 1), (2, 1), (1, 2), (1, 4))):
            for index in range(self.blocks[stage]):
                x = Bottleneck(
                    self.planes[stage],
                    stride if index == 0 else 1,
                    dilation,
                    index == 0,
                    norm,
                    stride_first=True,
                    name=f"layer{stage + 1}_{index}",
                )(x, **call)
        return x


class _SmallNet(nn.Module):
    """`_SmallBackbone` and one convolution to the classes."""

    backbone: _SmallBackbone
    num_classes: int

    @nn.compact
    def __call__(self, images):
        features = self.backbone(images)
        size = {"kernel_size": 3, "padding": 6, "dilation": 6, "use_bias": True}
        return Conv(self.num_classes, name="head", **size)(features)


_SMALL_LAYOUT = types.ModuleType("small_layout")
_SMALL_LAYOUT.published_name = lambda path: (
    "",
    layer_name(path[1:])
    if path[0] == "backbone"
    else {"kernel": "layer5.weight", "bias": "layer5.bias"}[path[-1]],
)


def check_torch_steps(path):
    case = np.load(path)
    weights = stored(case, "param0/")
    blocks = [
        sum(f"param0/layer{s}.{i}.conv1.weight" in case.files for i in range(99))
        for s in (1, 2, 3, 4)
    ]
    backbone = _SmallBackbone(
        len(weights("conv1.weight", None)),
        tuple(len(weights(f"layer{s}.0.conv1.weight", None)) for s in (1, 2, 3, 4)),
        tuple(blocks),
    )
    model = _SmallNet(backbone, int(case["num_classes"]))
    init = functools.partial(model.init, jax.random.key(0), nhwc(case["x"][0]))
    variables = fill(init, _SMALL_LAYOUT, weights)

    def loss(params, images, labels):
        logits = model.apply({**variables, "params": params}, images)
        value, _ = confidence_regularised_loss(
            resize_bilinear(logits, labels.shape[1:], align_corners=True),
            labels,
            regularizer="kld",
            weight=float(case["mr_weight_kld"]),
            image_weights=jnp.asarray(case["reg_weights"], jnp.float32),
        )
        return value

    base, gradient_of = float(case["lr"]), jax.jit(jax.value_and_grad(loss))
    for branch, visits in (
        ("torch040", "published"),
        ("modern", "modern"),
        ("dedup", "once"),
    ):
        settings = OptimizerSettings(
            learning_rate=base,
            schedule="constant",
            momentum=float(case["momentum"]),
            weight_decay=float(case["weight_decay"]),
            head_multiplier=float(case["lr_head"]) / base,
            visits=visits,
        )
        losses, after = descend(case, gradient_of, variables["params"], settings)
        losses = np.array(losses)
        np.testing.assert_allclose(losses, case[f"loss_{branch}"], rtol=2e-4)
        for t, params in enumerate(after):
            prefix = f"{branch}/step{t + 1}/"
            if any(key.startswith(prefix) for key in case.files):
                now = {**variables, "params": params}
                check_params(published(now, _SMALL_LAYOUT), case, prefix)


_DRIVER = {
    "--num-round": ("num_rounds", int),
    "--init-tgt-port": ("portion", float),
    "--tgt-port-step": ("portion_step", float),
    "--max-tgt-port": ("portion_max", float),
    "--init-src-port": ("source_portion", float),
    "--src-port-step": ("source_portion_step", float),
    "--max-src-port": ("source_portion_max", float),
    "--source-sample-policy": ("source_policy", str),
    "--seed-int": ("source_seed", int),
    "--base-lr": ("learning_rate", float),
    "--batch-images": ("batch_size", int),
}
"""What the published driver calls our arguments."""


def check_driver(path):
    case = np.load(path)
    given = [str(word) for word in case["argv"]]
    values = dict(zip(given[::2], given[1::2], strict=True))
    arguments = {
        ours: kind(values[theirs])
        for theirs, (ours, kind) in _DRIVER.items()
        if theirs in values
    }
    num_source, num_target = 24966, 505
    rounds = cbst_rounds(num_source=num_source, num_target=num_target, **arguments)
    settings = [entry["settings"] for entry in rounds]
    rates = [entry["optimizer"]["learning_rate"] for entry in rounds]
    for key, found in (
        ("tgt_port", [values["selector"]["portion"] for values in settings]),
        ("src_port", [values["source_portion"] for values in settings]),
        ("lr", rates),
    ):
        np.testing.assert_allclose(found, case[key], rtol=1e-9)
    seeds = [values["source_seed"] for values in settings]
    np.testing.assert_array_equal(seeds, case["seed"])
    ends = EPOCHS * (case["round"] + 1)
    np.testing.assert_array_equal(ends, case["to_epoch"])
    # Every round goes on from the last epoch of the one before.
    for end, name in zip(ends[:-1], case["weights"][1:], strict=True):
        assert f"_ep-{end:04d}." in str(name)
    batch_size = arguments["batch_size"]
    for entry, portion in zip(rounds, case["src_port"], strict=True):
        images = math.floor(num_source * portion) + num_target
        assert entry["num_steps"] == images // batch_size * EPOCHS


CHECKERS = {
    "mx_lr_schedules*.npz": check_mxnet_rates,
    "mx_train_steps*.npz": check_mxnet_steps,
    "crst_lr_poly*.npz": check_crst_rates,
    "crst_sgd_steps*.npz": check_torch_steps,
    "cbst_ao_schedule_*.npz": check_driver,
}
