"""The ResNet family against torch modules built here from the specifications.

PyTorch computes in float64; names, arrays and modes are those of the publications.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sfda_jax.models import deeplab_v2, deeplab_v3_plus
from sfda_jax.types import ModelState
from sfda_jax.weights.convert import to_flax, to_torch

torch = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional

_SMALL = {"stem_channels": 4, "planes": (2, 3, 4, 5), "blocks": (1, 2, 3, 3)}
_CLASSES = 3


def _conv(inputs, outputs, size, stride=1, dilation=1):
    padding = dilation * (size // 2)
    return nn.Conv2d(
        inputs, outputs, size, stride, padding, dilation=dilation, bias=False
    )


class _Bottleneck(nn.Module):
    def __init__(self, inputs, planes, stride, dilation, *, project, first, eps):
        super().__init__()
        self.conv1 = _conv(inputs, planes, 1, stride if first else 1)
        self.bn1 = nn.BatchNorm2d(planes, eps)
        self.conv2 = _conv(planes, planes, 3, 1 if first else stride, dilation)
        self.bn2 = nn.BatchNorm2d(planes, eps)
        self.conv3 = _conv(planes, 4 * planes, 1)
        self.bn3 = nn.BatchNorm2d(4 * planes, eps)
        self.downsample = None
        if project:
            shortcut = _conv(inputs, 4 * planes, 1, stride)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(4 * planes, eps))

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class _ResNet(nn.Module):
    def __init__(
        self, strides, dilations, *, deep=False, first=False, ceil=False, eps=1e-5
    ):
        super().__init__()
        width = _SMALL["stem_channels"]
        if deep:
            steps = ((3, width // 2, 2), (width // 2, width // 2, 1))
            layers = []
            for inputs, outputs, stride in (*steps, (width // 2, width, 1)):
                norm = nn.BatchNorm2d(outputs, eps)
                layers += [_conv(inputs, outputs, 3, stride), norm, nn.ReLU()]
            self.stem = nn.Sequential(*layers)
        else:
            self.stem = None
            self.conv1 = _conv(3, width, 7, 2)
            self.bn1 = nn.BatchNorm2d(width, eps)
        self.pool = nn.MaxPool2d(3, 2, 1, ceil_mode=ceil)
        sizes = zip(_SMALL["planes"], _SMALL["blocks"], strict=True)
        for stage, (planes, count) in enumerate(sizes):
            blocks = []
            for index in range(count):
                block = _Bottleneck(
                    width,
                    planes,
                    1 if index else strides[stage],
                    dilations[stage][index],
                    project=index == 0,
                    first=first,
                    eps=eps,
                )
                blocks.append(block)
                width = 4 * planes
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))

    def forward(self, x):
        stem = self.stem or nn.Sequential(self.conv1, self.bn1, nn.ReLU())
        x = self.pool(stem(x))
        stages = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            stages.append(x := layer(x))
        return stages


class _Branches(nn.Module):
    """A list of dilated convolutions, under the name that a publication gives it."""

    def __init__(self, name, wrap=lambda conv: conv):
        super().__init__()
        inputs = 4 * _SMALL["planes"][-1]
        convs = [
            wrap(nn.Conv2d(inputs, _CLASSES, 3, padding=d, dilation=d))
            for d in (6, 12, 18, 24)
        ]
        setattr(self, name, nn.ModuleList(convs))
        self.convs = [getattr(conv, "conv", conv) for conv in convs]

    def forward(self, x):
        return sum(conv(x) for conv in self.convs)


class _Named(nn.Module):
    def __init__(self, **modules):
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)


class _Aspp(nn.Module):
    def __init__(self, channels):
        super().__init__()
        inputs = 4 * _SMALL["planes"][-1]
        for index, dilation in enumerate((1, 6, 12, 18), start=1):
            conv = _conv(inputs, channels, 3 if dilation > 1 else 1, 1, dilation)
            branch = _Named(atrous_conv=conv, bn=nn.BatchNorm2d(channels))
            self.add_module(f"aspp{index}", branch)
        self.global_avg_pool = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            _conv(inputs, channels, 1),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        )
        self.conv1 = _conv(5 * channels, channels, 1)
        self.bn1 = nn.BatchNorm2d(channels)

    def forward(self, x):
        branches = [self.aspp1, self.aspp2, self.aspp3, self.aspp4]
        parts = [F.relu(b.bn(b.atrous_conv(x))) for b in branches]
        parts.append(self.global_avg_pool(x).expand_as(parts[0]))
        return F.relu(self.bn1(self.conv1(torch.cat(parts, 1))))


class _DeepLabV3Plus(nn.Module):
    def __init__(self, channels, low_channels):
        super().__init__()
        dilations = ((1,), (1, 1), (1, 1, 1), (2, 4, 8))
        self.backbone = _ResNet((1, 2, 2, 1), dilations)
        self.aspp = _Aspp(channels)
        joined = channels + low_channels
        self.decoder = _Named(
            conv1=_conv(4 * _SMALL["planes"][0], low_channels, 1),
            bn1=nn.BatchNorm2d(low_channels),
            last_conv=nn.Sequential(
                _conv(joined, channels, 3),
                nn.BatchNorm2d(channels),
                nn.ReLU(),
                _conv(channels, channels, 3),
                nn.BatchNorm2d(channels),
                nn.ReLU(),
                nn.Dropout2d(0.0),
                nn.Conv2d(channels, _CLASSES, 1),
            ),
        )

    def forward(self, x):
        low, *_, high = self.backbone(x)
        scene = self.aspp(high)
        scene = F.interpolate(scene, low.shape[2:], mode="bilinear", align_corners=True)
        low = F.relu(self.decoder.bn1(self.decoder.conv1(low)))
        return self.decoder.last_conv(torch.cat([scene, low], 1))


class _DeepLabV2(nn.Module):
    def __init__(self, backbone, head, sections):
        super().__init__()
        self.backbone, self.head = backbone, head
        self.sections = sections

    def forward(self, x):
        return self.head(self.backbone(x)[-1])


_PREVIOUS = ((1,), (1, 1), (1, 2, 2), (2, 4, 4))
_EQUAL = ((1,), (1, 1), (2, 2, 2), (4, 4, 4))
_STRIDES = (1, 2, 1, 1)


def _stable_st():
    return _DeepLabV2(
        _ResNet(_STRIDES, _PREVIOUS, eps=0.0),
        _Branches("conv2d_list"),
        lambda net: {
            "feature_extractor": _prefixed("backbone.", net.backbone),
            "classifier": dict(net.head.state_dict()),
        },
    )


def _crst():
    return _DeepLabV2(
        _ResNet(_STRIDES, _EQUAL, first=True, ceil=True),
        _Branches("conv2d_list"),
        lambda net: {
            "": {**net.backbone.state_dict(), **_prefixed("layer5.", net.head)}
        },
    )


def _iast():
    return _DeepLabV2(
        _ResNet(_STRIDES, _PREVIOUS),
        _Branches("conv2d_list"),
        lambda net: {
            "": {
                **_prefixed("backbone.", net.backbone),
                **_prefixed("decoder.aspp.", net.head),
            }
        },
    )


def _atp():
    return _DeepLabV2(
        _ResNet(_STRIDES, _PREVIOUS, deep=True),
        _Branches("aspp_modules", lambda conv: _Named(conv=conv)),
        lambda net: {
            "": {
                **_prefixed("backbone.", net.backbone),
                **_prefixed("decode_head.", net.head),
            }
        },
    )


def _bismap():
    network = _DeepLabV3Plus(6, 2)
    network.sections = lambda net: {"": dict(net.state_dict())}
    return network


def _prefixed(prefix, module):
    return {prefix + name: value for name, value in module.state_dict().items()}


def _ours(variant, **settings):
    published = deeplab_v2.PUBLISHED[variant]
    return deeplab_v2.Model(_CLASSES, **_SMALL, **{**published, **settings})


_CASES = {
    "stable_st": (_stable_st, _ours("stable_st"), "deeplab_v2"),
    "crst": (_crst, _ours("crst"), "deeplab_v2_crst"),
    "iast": (_iast, _ours("iast", frozen_bn=False), "deeplab_v2_iast"),
    "atp": (_atp, _ours("atp"), "deeplab_v2_atp"),
    "bismap": (
        _bismap,
        deeplab_v3_plus.Model(_CLASSES, **_SMALL, head_channels=6, low_channels=2),
        "deeplab_v3_plus",
    ),
}
_TRAINED = ("iast", "atp", "bismap")


def _random(network):
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
            nn.init.normal_(module.running_mean, 0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network


def _arrays(network):
    """Section → name → float32 array, without counters of batches."""
    return {
        section: {
            name: tensor.detach().numpy().astype(np.float32)
            for name, tensor in state.items()
            if not name.endswith("num_batches_tracked")
        }
        for section, state in network.sections(network).items()
    }


def _tree(sections):
    return sections[""] if set(sections) == {""} else sections


def _images():
    images = np.random.default_rng(0).normal(size=(3, 3, 41, 58))
    return images.astype(np.float32)


def _nhwc(array):
    return jnp.asarray(array.transpose(0, 2, 3, 1))


def _relative(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("variant", _CASES)
def test_logits_and_checkpoint(variant):
    build, model, layout = _CASES[variant]
    network = _random(build()).eval()
    arrays, images = _arrays(network), _images()
    with torch.no_grad():
        expected = network.double()(torch.from_numpy(images).double()).numpy()
    state = to_flax(_tree(arrays), model, layout=layout)
    output = jax.jit(model.apply)(state.variables, _nhwc(images))
    logits = np.asarray(output.logits).transpose(0, 3, 1, 2)
    assert _relative(logits, expected) < 1e-5
    again = to_torch(state, model, layout)
    assert again.keys() == arrays.keys()
    for section, names in arrays.items():
        assert again[section].keys() == names.keys()
        for name, array in names.items():
            np.testing.assert_array_equal(again[section][name], array)


@pytest.mark.parametrize("variant", _TRAINED)
def test_gradients_and_statistics_of_a_training_step(variant):
    build, model, layout = _CASES[variant]
    network = _random(build()).train()
    images = _images()
    state = to_flax(_tree(_arrays(network)), model, layout=layout)
    network = network.double()
    expected = network(torch.from_numpy(images).double())
    weights = np.random.default_rng(1).normal(size=expected.shape).astype(np.float32)
    (expected * torch.from_numpy(weights)).sum().backward()

    def loss(params):
        output, after = model.apply(
            {"params": params, "batch_stats": state.batch_stats},
            _nhwc(images),
            use_running_average=False,
            mutable=["batch_stats"],
        )
        total = (output.logits * _nhwc(weights)).sum()
        return total, (output.logits, after["batch_stats"])

    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (_, (logits, statistics)), gradient = step(state.params)
    logits = np.asarray(logits).transpose(0, 3, 1, 2)
    assert _relative(logits, expected.detach().numpy()) < 1e-4
    after = _arrays(network)
    gradients = ModelState(params=gradient, batch_stats=statistics)
    largest = max(p.grad.abs().max().item() for p in network.parameters())
    slopes = _slopes(network)
    for section, names in to_torch(gradients, model, layout).items():
        for name, found in names.items():
            if "running" in name:
                assert _relative(found, after[section][name]) < 1e-4, name
                continue
            wanted = slopes[section][name]
            close = np.abs(found - wanted).max() < 1e-3 * np.abs(wanted).max()
            assert close or np.abs(found - wanted).max() < 1e-6 * largest, name


def _slopes(network):
    """`_arrays` of the gradients."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(parameter.grad)
    return _arrays(network)
