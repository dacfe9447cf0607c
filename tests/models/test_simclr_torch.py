"""SimCLRv2 against the same network written with torch, from its description."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sfda_jax.models import simclr
from sfda_jax.types import ModelState
from sfda_jax.weights.convert import to_flax, to_torch
from sfda_jax.weights.layout import published_entries

torch = pytest.importorskip("torch")
F = torch.nn.functional

_MODEL = simclr.Model(num_classes=3, stem_channels=8, planes=(4, 5, 6, 40))
_SIZES = ((64, 96), (67, 81), (65, 40))
_CASES = {
    "sk1": _MODEL.clone(blocks=(2, 2, 1, 1), sk_ratio=0.0625),
    "sk1_wide": _MODEL.clone(blocks=(1, 1, 1, 2), sk_ratio=0.9),
    "sk0": _MODEL.clone(blocks=(2, 1, 2, 1), sk_ratio=0.0),
}


class _Torch:
    """A forward pass over published names."""

    def __init__(self, weights):
        self.w = weights

    def conv(self, x, name, stride=1, padding=0):
        return F.conv2d(x, self.w[f"{name}.weight"], stride=stride, padding=padding)

    def norm(self, x, name):
        fields = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(self.w[f"{name}.{f}"] for f in fields), eps=1e-5)

    def select(self, x, name, stride, planes):
        y = self.conv(x, f"{name}.main_conv.0", stride, 1)
        y = F.relu(self.norm(y, f"{name}.main_conv.1.0"))
        y = y.reshape(len(y), 2, planes, *y.shape[2:])
        mix = y.sum(1).mean((2, 3), keepdim=True)
        mix = self.conv(mix, f"{name}.mixing_conv.0")
        mix = F.relu(self.norm(mix, f"{name}.mixing_conv.1.0"))
        mix = self.conv(mix, f"{name}.mixing_conv.2")
        mix = mix.reshape(len(y), 2, planes, 1, 1).softmax(1)
        return (mix * y).sum(1)

    def block(self, x, name, stride, planes, selective):
        shortcut = x
        if f"{name}.projection.bn.0.weight" in self.w:
            place = f"{name}.projection.shortcut"
            if selective:
                shortcut = F.avg_pool2d(F.pad(x, (0, 1, 0, 1)), 2, stride)
                shortcut = self.conv(shortcut, f"{place}.2")
            else:
                shortcut = self.conv(x, place, stride)
            shortcut = self.norm(shortcut, f"{name}.projection.bn.0")
        y = F.relu(self.norm(self.conv(x, f"{name}.net.0"), f"{name}.net.1.0"))
        if selective:
            y = self.select(y, f"{name}.net.2", stride, planes)
            last = 3
        else:
            y = self.conv(y, f"{name}.net.2", stride, 1)
            y = F.relu(self.norm(y, f"{name}.net.3.0"))
            last = 4
        y = self.norm(self.conv(y, f"{name}.net.{last}"), f"{name}.net.{last + 1}.0")
        return F.relu(shortcut + y)

    def __call__(self, x, model):
        selective = model.sk_ratio > 0
        stem = ((0, 2), (2, 1), (4, 1)) if selective else ((0, 2),)
        for index, stride in stem:
            x = self.conv(x, f"net.0.{index}", stride, 1 if selective else 3)
            x = F.relu(self.norm(x, f"net.0.{index + 1}.0"))
        x = F.max_pool2d(x, 3, 2, 1)
        for stage, (count, planes) in enumerate(
            zip(model.blocks, model.planes, strict=True), start=1
        ):
            for index in range(count):
                stride = 2 if stage > 1 and index == 0 else 1
                name = f"net.{stage}.blocks.{index}"
                x = self.block(x, name, stride, planes, selective)
        logits = F.linear(x.permute(0, 2, 3, 1), self.w["fc.weight"], self.w["fc.bias"])
        return x, logits


def _weights(model):
    rng = np.random.default_rng(0)
    weights = {}
    for entry in published_entries(model):
        array = rng.normal(size=entry.shape)
        if entry.name.endswith("running_var"):
            array = 0.5 + np.abs(array)
        elif array.ndim > 1:
            array *= np.sqrt(2 / np.prod(entry.shape[1:]))
        weights[entry.name] = array.astype(np.float32)
    return weights


def _largest(found, expected):
    found, expected = np.asarray(found), expected.detach().numpy()
    assert found.shape == expected.shape
    return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize(("case", "size"), [*zip(_CASES, _SIZES, strict=True)])
def test_forward_and_gradients_in_float64(case, size):
    model, weights = _CASES[case], _weights(_CASES[case])
    state = to_flax({"resnet": weights}, model)
    images = np.random.default_rng(1).random((2, *size, 3))
    tensors = {
        name: torch.tensor(
            array.astype(np.float64), requires_grad="running" not in name
        )
        for name, array in weights.items()
    }
    x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    features, logits = _Torch(tensors)(x, model)
    (features.square().mean() + logits.mean()).backward()

    def loss(params, statistics, images):
        variables = {"params": params, "batch_stats": statistics}
        output = model.clone(dtype="float64").apply(variables, images)
        return jnp.square(output.features).mean() + output.logits.mean(), output

    with jax.enable_x64(True):
        double = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), state)
        run = jax.jit(jax.value_and_grad(loss, has_aux=True))
        arguments = double.params, double.batch_stats, jnp.asarray(images)
        (_, output), gradients = run(*arguments)
        assert output.features.dtype == np.float64
        differences = {
            "features": _largest(output.features.transpose(0, 3, 1, 2), features),
            "logits": _largest(output.logits, logits),
        }
    assert max(differences.values()) < 1e-12, differences
    found = to_torch(ModelState(gradients, state.batch_stats), model)["resnet"]
    for name, tensor in tensors.items():
        if tensor.requires_grad:  # float32 in a published file
            differences[name] = _largest(found[name], tensor.grad)
    assert max(differences.values()) < 1e-6, differences
