"""ResNet-38 A1 against the same network written with torch, from its description."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sfda_jax.models import wide_resnet38
from sfda_jax.types import ModelState
from sfda_jax.weights.convert import to_flax, to_torch
from sfda_jax.weights.layout import published_entries

torch = pytest.importorskip("torch")
F = torch.nn.functional

_MODEL = wide_resnet38.Model(
    num_classes=5,
    stem_channels=4,
    planes=((5, 5), (6, 6), (7, 7), (7, 9), (5, 8, 11), (6, 9, 12)),
    blocks=(1, 2, 2, 2, 1, 1),
    head_planes=8,
)
_DILATED = {"5a": (1, 2), "5b": (2, 2), "6a": (None, 4), "7a": (None, 4)}


class _Torch:
    """A forward pass over MXNet's names."""

    def __init__(self, weights):
        self.w = weights

    def conv(self, x, name, stride=1, dilation=1):
        weight = self.w[f"{name}_weight"]
        padding = dilation * (weight.shape[-1] // 2)
        bias = self.w.get(f"{name}_bias")
        return F.conv2d(x, weight, bias, stride, padding, dilation)

    def activated(self, x, name):
        fields = ("moving_mean", "moving_var", "gamma", "beta")
        return F.relu(
            F.batch_norm(x, *(self.w[f"{name}_{f}"] for f in fields), eps=1.001e-5)
        )

    def block(self, x, name, stride):
        first, later = _DILATED.get(name[:2], (1, 1))
        a = self.activated(x, f"bn{name}_branch2a")
        size = self.w[f"res{name}_branch2a_weight"].shape[-1]
        dilation = first if size == 3 else 1
        y = self.conv(a, f"res{name}_branch2a", stride, dilation)
        for part in ("branch2b1", "branch2b2"):
            if f"bn{name}_{part}_gamma" in self.w:
                y = self.activated(y, f"bn{name}_{part}")
                size = self.w[f"res{name}_{part}_weight"].shape[-1]
                y = self.conv(y, f"res{name}_{part}", 1, later if size == 3 else 1)
        if f"res{name}_branch1_weight" in self.w:
            x = self.conv(a, f"res{name}_branch1", stride)
        return x + y

    def __call__(self, x, model):
        x = self.conv(x, "conv1a")
        for level, count in enumerate(model.blocks, start=2):
            x = self.block(x, f"{level}a", 2 if level < 5 else 1)
            for index in range(1, count):
                x = self.block(x, f"{level}b{index}", 1)
        features = self.activated(x, "bn7")
        x = F.relu(self.conv(features, "conv6a", 1, 12))
        return features, self.conv(x, f"linear{model.num_classes}", 1, 12)


def _weights(model):
    rng = np.random.default_rng(0)
    weights = {"arg": {}, "aux": {}}
    for entry in published_entries(model):
        array = rng.normal(size=entry.shape)
        if entry.name.endswith("moving_var"):
            array = 0.5 + np.abs(array)
        elif array.ndim > 1:
            array *= np.sqrt(1 / np.prod(entry.shape[1:]))
        weights[entry.section][entry.name] = array.astype(np.float32)
    return weights


def _largest(found, expected):
    found, expected = np.asarray(found), expected.detach().numpy()
    assert found.shape == expected.shape
    return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("size", [(64, 80), (41, 67)])
def test_forward_and_gradients(size):
    weights = _weights(_MODEL)
    state = to_flax(weights, _MODEL)
    images = np.random.default_rng(1).normal(size=(2, *size, 3)).astype(np.float32)

    def loss(params):
        variables = {**state.variables, "params": params}
        output = _MODEL.apply(variables, jnp.asarray(images), use_running_average=False)
        return jnp.square(output.logits).mean(), output

    (_, output), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(
        state.params
    )
    trained = {
        name: torch.tensor(array, requires_grad=True)
        for name, array in weights["arg"].items()
    }
    fixed = {name: torch.tensor(array) for name, array in weights["aux"].items()}
    x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    features, logits = _Torch({**trained, **fixed})(x, _MODEL)
    logits.square().mean().backward()
    differences = {
        "features": _largest(output.features.transpose(0, 3, 1, 2), features),
        "logits": _largest(output.logits.transpose(0, 3, 1, 2), logits),
    }
    assert max(differences.values()) < 1e-5, differences
    found = to_torch(ModelState(gradients, state.batch_stats), _MODEL)["arg"]
    for name, tensor in trained.items():
        differences[name] = _largest(found[name], tensor.grad)
    assert max(differences.values()) < 1e-4, differences
