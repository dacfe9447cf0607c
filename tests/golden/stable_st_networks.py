"""Networks, resizing and checkpoint layouts of the Stable-ST family."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np

from sfda_jax.models import deeplab_v2, deeplab_v2_vgg
from sfda_jax.models.layers import BatchNorm
from sfda_jax.models.resnet import ResNet
from sfda_jax.ops.resize import resize_bilinear, resize_nearest
from sfda_jax.tasks import ClassSpace, Domain, Task
from sfda_jax.train.optim import OptimizerSettings, make_optimizer
from sfda_jax.types import IGNORE, ModelState
from sfda_jax.weights.convert import to_flax, to_torch
from sfda_jax.weights.layout import published_entries

SYSTEM = "stable_st"
_SECTIONS = ("feature_extractor", "classifier")


def nhwc(x):
    return jnp.asarray(x).transpose(0, 2, 3, 1)


def nchw(x):
    return np.asarray(x).transpose(0, 3, 1, 2)


def recorded_task(num_classes):
    """A task of so many classes, for methods that replay recorded steps."""
    space = ClassSpace(
        name="recorded",
        names=tuple(str(c) for c in range(num_classes)),
        palette=np.zeros((num_classes, 3), np.uint8),
        subsets={"mIoU": tuple(range(num_classes))},
    )
    domain = Domain(dataset="recorded", train="train", eval="val")
    return Task(
        name="recorded", source=None, target=domain, classes=space, headline="mIoU"
    )


def recorded_optimizer(hyper):
    """The optimiser of recorded steps."""
    return make_optimizer(
        OptimizerSettings(
            learning_rate=hyper["base_lr"],
            max_steps=hyper["max_iter"],
            power=hyper["power"],
            momentum=hyper["momentum"],
            weight_decay=hyper["weight_decay"],
            head_multiplier=float(hyper["classifier_lr_mult"]),
        )
    )


def check_network(data, prefix, network, model):
    """The published tensors under a prefix are the network's."""
    published = to_torch(network, model)
    names = [key for key in data.files if key.startswith(f"{prefix}/")]
    assert names
    for key in names:
        _, section, name = key.split("/", 2)
        np.testing.assert_allclose(
            published[section][name], data[key], atol=1e-5, rtol=0, err_msg=key
        )


def published_tree(arrays, prefix=""):
    """Section → name → array, of the keys `<prefix><section>/<name>`."""
    return {
        section: {
            key.removeprefix(f"{prefix}{section}/"): arrays[key]
            for key in arrays
            if key.startswith(f"{prefix}{section}/")
        }
        for section in _SECTIONS
    }


def model_of(tree):
    """The reduced network whose tensors these are, sizes read off their shapes."""
    backbone, head = (tree[section] for section in _SECTIONS)
    blocks = [
        1
        + max(int(m[1]) for n in backbone if (m := re.match(rf".*layer{i}\.(\d+)", n)))
        for i in range(1, 5)
    ]
    planes = [
        backbone[f"backbone.layer{i}.0.conv1.weight"].shape[0] for i in range(1, 5)
    ]
    return deeplab_v2.Model(
        num_classes=head["conv2d_list.0.weight"].shape[0],
        stem_channels=backbone["backbone.conv1.weight"].shape[0],
        planes=tuple(planes),
        blocks=tuple(blocks),
    )


def check_frozen_bn(path):
    case = np.load(path)
    statistics = {
        "scale": case["weight"],
        "bias": case["bias"],
        "mean": case["running_mean"],
        "var": case["running_var"],
    }
    y = BatchNorm(frozen=True, eps=0.0).apply(
        {"batch_stats": jax.tree.map(jnp.asarray, statistics)},
        nhwc(case["x"]),
        use_running_average=True,
    )
    np.testing.assert_allclose(nchw(y), case["y"], rtol=1e-5)


def check_aspp_classifier(path):
    case = np.load(path)
    weights = {k.split("/")[1]: case[k] for k in case.files if "/" in k}
    params = {
        f"branch{i}": {
            "kernel": jnp.asarray(
                weights[f"conv2d_list.{i}.weight"].transpose(2, 3, 1, 0)
            ),
            "bias": jnp.asarray(weights[f"conv2d_list.{i}.bias"]),
        }
        for i in range(4)
    }
    head = deeplab_v2.AsppHead(weights["conv2d_list.0.bias"].shape[0])
    logits = head.apply({"params": params}, nhwc(case["x"]))
    np.testing.assert_allclose(nchw(logits), case["logits"], rtol=0, atol=1e-5)
    size = tuple(int(n) for n in case["size"])
    up = resize_bilinear(logits, size, align_corners=True)
    np.testing.assert_allclose(nchw(up), case["logits_up"], rtol=0, atol=1e-5)


def check_interpolate(path):
    case = np.load(path)
    for i in range(int(case["n"])):
        x, size = nhwc(case[f"{i}/x"]), tuple(int(n) for n in case[f"{i}/size"])
        bilinear = nchw(resize_bilinear(x, size, align_corners=True))
        np.testing.assert_allclose(
            bilinear, case[f"{i}/bilinear_align_corners"], rtol=0, atol=1e-6
        )
        nearest = nchw(resize_nearest(x, size))
        np.testing.assert_array_equal(nearest, case[f"{i}/nearest"])


def check_segnet_forward(path):
    case = np.load(path)
    tree = published_tree({k: case[k] for k in case.files})
    model = model_of(tree)
    state = to_flax(tree, model)
    for i in range(int(case["num_inputs"])):
        output = jax.jit(model.apply)(state.variables, nhwc(case[f"in{i}/x"]))
        np.testing.assert_allclose(
            nchw(output.logits), case[f"in{i}/logits"], rtol=0, atol=1e-4
        )
        if i == 0:
            _check_first_input(case, model, state, output)
    for section, tensors in to_torch(state, model).items():
        assert tensors.keys() == tree[section].keys()
        for name, tensor in tensors.items():
            np.testing.assert_array_equal(tensor, tree[section][name])


def _check_first_input(case, model, state, output):
    x = nhwc(case["in0/x"])
    np.testing.assert_allclose(
        nchw(output.features), case["in0/layer4"], rtol=0, atol=1e-4
    )
    backbone = ResNet(model.stem_channels, model.planes, model.blocks)
    *_, layer3, _ = backbone.apply(
        {name: tree["backbone"] for name, tree in state.variables.items()},
        x[:1],
        use_running_average=True,
    )
    np.testing.assert_allclose(nchw(layer3), case["in0/layer3"], rtol=0, atol=1e-4)
    up = resize_bilinear(output.logits, x.shape[1:3], align_corners=True)
    corner = case["in0/logits_up_corner"]
    rows, columns = corner.shape[2:]
    np.testing.assert_allclose(
        nchw(up)[:, :, :rows, :columns], corner, rtol=0, atol=1e-4
    )
    top = np.sort(np.asarray(up), axis=-1)
    clear = top[..., -1] - top[..., -2] >= 1e-4
    different = np.asarray(up).argmax(-1) != case["in0/argmax_up"]
    assert not (different & clear).any()


def check_segnet_grad(path):
    case = np.load(path)
    tensors = np.load(path.with_name("segnet_forward.npz"))
    model = model_of(tree := published_tree({k: tensors[k] for k in tensors.files}))
    state = to_flax(tree, model)
    labels = jnp.asarray(case["label"].astype(np.int32))

    def loss(params):
        output = model.apply(
            {"params": params, "batch_stats": state.batch_stats}, nhwc(case["x"])
        )
        logits = resize_bilinear(output.logits, labels.shape[1:], align_corners=True)
        kept = labels != IGNORE
        picked = jnp.take_along_axis(
            jax.nn.log_softmax(logits), jnp.where(kept, labels, 0)[..., None], axis=-1
        )
        return -jnp.where(kept, picked[..., 0], 0.0).mean()

    value, gradient = jax.jit(jax.value_and_grad(loss))(state.params)
    np.testing.assert_allclose(float(value), float(case["loss"]), rtol=1e-3)
    found = to_torch(ModelState(params=gradient, batch_stats=state.batch_stats), model)
    expected = published_tree({k: case[k] for k in case.files}, "grad/")
    for section, names in expected.items():
        for name, tensor in names.items():
            np.testing.assert_allclose(
                found[section][name], tensor, rtol=1e-3, atol=1e-5, err_msg=name
            )


def check_param_names(path):
    networks = {
        "deeplab_resnet101": deeplab_v2.Model,
        "deeplab_vgg16": deeplab_v2_vgg.Model,
    }
    for network, sections in json.loads(path.read_text()).items():
        expected = {
            (section, e["name"]): (tuple(e["shape"]), e["trainable"])
            for section in _SECTIONS
            for e in sections[section]
        }
        found = {
            (e.section, e.name): (tuple(e.shape), e.trainable)
            for e in published_entries(networks[network](sections["num_classes"]))
        }
        assert found == expected


CHECKERS = {
    "frozen_bn.npz": check_frozen_bn,
    "aspp_classifier.npz": check_aspp_classifier,
    "interpolate.npz": check_interpolate,
    "segnet_forward.npz": check_segnet_forward,
    "segnet_grad.npz": check_segnet_grad,
    "param_names.json": check_param_names,
}
