"""BiSMAP's recorded training steps: warm-up, self-training, distillation."""

import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax import traverse_util

from sfda_jax.methods import bismap_distill, bismap_self_train
from sfda_jax.models.layers import BatchNorm, Conv
from sfda_jax.train.optim import OptimizerSettings, make_optimizer
from sfda_jax.train.states import start_state
from sfda_jax.train.step import make_train_step
from sfda_jax.types import ModelState, SegOutput
from tests.golden.bismap_losses import train_ids
from tests.golden.published_weights import nhwc
from tests.golden.stable_st_networks import recorded_task

SYSTEM = "bismap"
_NAMES = {
    ("backbone", "conv0"): "backbone.0",
    ("backbone", "bn0"): "backbone.1",
    ("backbone", "conv1"): "backbone.3",
    ("backbone", "bn1"): "backbone.4",
    ("head", "merge"): "aspp.0",
    ("head", "merge_bn"): "aspp.1",
    ("head", "conv"): "decoder.last_conv.0",
    ("head", "bn"): "decoder.last_conv.1",
    ("head", "classify"): "decoder.last_conv.4",
}
_LEAVES = {
    **{"kernel": "weight", "scale": "weight", "bias": "bias"},
    **{"mean": "running_mean", "var": "running_var"},
}
_TERMS = ("loss", "loss_source", "loss_consistency", "target", "loss_distillation")


class Layers(nn.Module):
    """(convolution, BatchNorm, channels, kernel, stride), each with a ReLU; a head."""

    convs: tuple[tuple[str, str, int, int, int], ...]
    classes: int = 0

    @nn.compact
    def __call__(self, x, use_running_average):
        for conv, norm, channels, kernel, stride in self.convs:
            layer = Conv(channels, kernel, stride, padding=kernel // 2, name=conv)
            x = BatchNorm(name=norm)(layer(x), use_running_average=use_running_average)
            x = nn.relu(x)
        if not self.classes:
            return x, x
        return x, Conv(self.classes, 1, use_bias=True, name="classify")(x)


class Model(nn.Module):
    """The recorded network in the place of the segmentation network."""

    widths: tuple[int, int, int, int]
    num_classes: int

    align_corners: ClassVar[bool] = True

    def setup(self):
        first, second, merged, decoded = self.widths
        self.backbone = Layers(
            (("conv0", "bn0", first, 3, 2), ("conv1", "bn1", second, 3, 2))
        )
        self.head = Layers(
            (("merge", "merge_bn", merged, 1, 1), ("conv", "bn", decoded, 3, 1)),
            self.num_classes,
        )

    def __call__(self, images, *, deterministic=True, use_running_average=True):
        x, _ = self.backbone(images, use_running_average)
        features, logits = self.head(x, use_running_average)
        return SegOutput(logits=logits, features=features)


def recorded_model(case):
    norms = {name for name in _NAMES.values() if f"init/{name}.running_var" in case}
    convs = [name for name in _NAMES.values() if name not in norms]
    widths = [case[f"init/{name}.weight"].shape[0] for name in convs]
    return Model(tuple(widths[:-1]), widths[-1])


def recorded_name(path):
    return f"{_NAMES[path[1:3]]}.{_LEAVES[path[3]]}"


def recorded_arrays(variables):
    """Recorded name → array, of variables with their collections."""
    return {
        recorded_name(path): np.transpose(leaf, (3, 2, 0, 1))
        if path[-1] == "kernel"
        else np.asarray(leaf)
        for path, leaf in traverse_util.flatten_dict(variables).items()
    }


def network_of(case, prefix, model, images):
    """The recorded network that is stored under a prefix."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)

    def fill(path, leaf):
        array = case[f"{prefix}/{recorded_name(path)}"]
        if path[-1] == "kernel":
            array = array.transpose(2, 3, 1, 0)
        assert array.shape == leaf.shape, path
        return jnp.asarray(array)

    flat = traverse_util.flatten_dict(shapes)
    filled = traverse_util.unflatten_dict({k: fill(k, v) for k, v in flat.items()})
    return ModelState(filled["params"], filled["batch_stats"])


def check_arrays(case, prefix, found, *, only=(), **tolerance):
    names = [name for name in case.files if name.startswith(f"{prefix}/")]
    names = [name for name in names if not only or name.split("/")[1] in only]
    assert names
    for name in names:
        value = found[name.removeprefix(f"{prefix}/")]
        np.testing.assert_allclose(value, case[name], err_msg=name, **tolerance)


def batch_of(case, step):
    """A recorded step's images, labels and maps, as the streams bring them."""
    part = {
        name: case[f"batch{step}/{name}"]
        for name in ("src_label", "src_map", "tgt_label", "tgt_mask")
    }
    images = {
        name: nhwc(case[f"batch{step}/{name}"])
        for name in ("src_image", "tgt_image", "tgt_masked")
    }
    return {
        "source": {
            "images": images["src_image"],
            "labels": train_ids(part["src_label"]),
            "weights": jnp.asarray(part["src_map"]),
        },
        "target": {
            "images": images["tgt_image"],
            "labels": train_ids(part["tgt_label"]),
            "student_images": images["tgt_masked"],
            "occluded": jnp.asarray(part["tgt_mask"]),
        },
    }


def recorded_optimizer(rates):
    """SGD as published, at the rates recorded of backbone and head."""
    sgd = OptimizerSettings(learning_rate=1.0, schedule="constant", head_multiplier=1.0)
    steps = jnp.asarray(rates, jnp.float32)
    scales = {
        name: optax.scale_by_schedule(lambda count, group=group: steps[count, group])
        for group, name in enumerate(("backbone", "head"))
    }
    by_group = optax.partition(scales, lambda params: {name: name for name in params})
    return optax.chain(make_optimizer(sgd), by_group)


def check_steps(path, make_method, teacher):
    """Replays the steps of one file; `teacher` is the prefix of its first teacher."""
    case = np.load(path)
    model = recorded_model(case)
    images = batch_of(case, 0)["source"]["images"]
    method = make_method(model=model, task=recorded_task(model.num_classes))
    optimizer = recorded_optimizer(case["lr"])
    student = network_of(case, "init", model, images)
    state = start_state(method, optimizer, student, jax.random.key(0))
    assert (state.teacher is not None) == bool(teacher)
    if teacher:
        state = state.replace(teacher=network_of(case, teacher, model, images))
    step = jax.jit(make_train_step(method, optimizer))
    for number, iteration in enumerate(case["iters"]):
        # The ramp of the consistency loss sees it; rates are counted by the optimiser.
        state = state.replace(step=jnp.int32(iteration))
        before = state
        state, metrics = step(state, batch_of(case, number), jax.random.key(0))
        check_losses(metrics, case["losses"][number])
        if number == 0:
            check_gradient(case, before, state)
        if number == 1:
            found = recorded_arrays(state.student.variables)
            check_arrays(case, "after2", found, rtol=0, atol=2e-6)
    found = recorded_arrays(state.student.variables)
    check_arrays(case, "final", found, rtol=0, atol=2e-6)
    check_arrays(case, "momentum", momentum(state), rtol=0, atol=2e-6)
    if "final_ema/backbone.0.weight" in case:
        found = recorded_arrays({"params": state.teacher.params})
        check_arrays(case, "final_ema", found, only=found, rtol=0, atol=2e-6)


def check_losses(metrics, expected):
    found = dict.fromkeys(_TERMS, 0.0) | jax.device_get(metrics)
    found["target"] = found.get("loss_labels", 0) + found["loss_distillation"]
    np.testing.assert_allclose([found[name] for name in _TERMS], expected, rtol=1e-5)


def momentum(state):
    return recorded_arrays({"params": optax.tree.get(state.opt_state, "trace")})


def check_gradient(case, before, after):
    """What the first step put into the empty momentum, less the weight decay."""
    params = recorded_arrays({"params": before.student.params})
    decay = OptimizerSettings().weight_decay
    found = {
        name: value - decay * params[name] for name, value in momentum(after).items()
    }
    check_arrays(case, "grad0", found, rtol=1e-4, atol=1e-6)


_warm_up = functools.partial(bismap_self_train.Method, labels_of="", consistency=0.0)

CHECKERS = {
    "train_step_warmup*.npz": functools.partial(
        check_steps, make_method=_warm_up, teacher=""
    ),
    "train_step_self_training*.npz": functools.partial(
        check_steps, make_method=bismap_self_train.Method, teacher="init_ema"
    ),
    "train_step_distill*.npz": functools.partial(
        check_steps, make_method=bismap_distill.Method, teacher="teacher"
    ),
}
