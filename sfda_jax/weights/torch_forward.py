"""The published DeepLabV2 networks in PyTorch's functions, to check a conversion by.

Written from the publications' definitions, layer by layer and on the file's own names,
so that neither our network nor our name maps are trusted. Needs PyTorch, which is
imported here only, and only when asked for.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from flax import linen as nn

Tensors = Mapping[str, Any]
_STRIDES = (1, 2, 1, 1)
# Positions of the first convolutions of the five groups, and of fc6 and fc7.
_VGG_GROUPS, _VGG_FC = (0, 5, 10, 17, 23), (29, 31)


def _deeplab(
    model: nn.Module, tensors: Tensors, image: Any, *, backbone: str, head: str
) -> Any:
    """Logits of a DeepLabV2-ResNet.

    Args:
        model: our network: epsilons, dilations and where the strides sit.
        tensors: the file's.
        image: `[1, 3, h, w]`, normalised.
        backbone: what stands before the backbone's names.
        head: what stands before the index of the head's branches.
    """
    from torch.nn import functional as F

    def norm(name, x):
        scale, bias, mean, var = (
            tensors[f"{backbone}{name}.{part}"][:, None, None]
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / (var + model.bn_eps).sqrt() * scale + bias

    def conv(name, x, **settings):
        return F.conv2d(x, tensors[f"{backbone}{name}.weight"], **settings)

    if model.deep_stem:
        x = F.relu(norm("stem.1", conv("stem.0", image, stride=2, padding=1)))
        x = F.relu(norm("stem.4", conv("stem.3", x, padding=1)))
        x = F.relu(norm("stem.7", conv("stem.6", x, padding=1)))
    else:
        x = F.relu(norm("bn1", conv("conv1", image, stride=2, padding=3)))
    x = F.max_pool2d(x, 3, 2, 1, ceil_mode=model.pool_ceil)
    for stage, blocks in enumerate(model.blocks):
        dilations = model.block_dilations[stage]
        for block in range(blocks):
            name = f"layer{stage + 1}.{block}"
            stride = _STRIDES[stage] if block == 0 else 1
            first, middle = (stride, 1) if model.stride_first else (1, stride)
            dilation = dilations[min(block, len(dilations) - 1)]
            y = conv(f"{name}.conv1", x, stride=first)
            y = F.relu(norm(f"{name}.bn1", y))
            spaced = {"padding": dilation, "dilation": dilation}
            y = conv(f"{name}.conv2", y, stride=middle, **spaced)
            y = F.relu(norm(f"{name}.bn2", y))
            y = norm(f"{name}.bn3", conv(f"{name}.conv3", y))
            if f"{backbone}{name}.downsample.0.weight" in tensors:
                x = conv(f"{name}.downsample.0", x, stride=stride)
                x = norm(f"{name}.downsample.1", x)
            x = F.relu(x + y)
    return _branches(model, tensors, x, head)


def _branches(model: nn.Module, tensors: Tensors, x: Any, head: str) -> Any:
    """Sum of the head's dilated convolutions; `{}` in `head` is their index."""
    from torch.nn import functional as F

    total = 0
    for index, dilation in enumerate(model.dilations):
        name = head.format(index)
        total = total + F.conv2d(
            x,
            tensors[f"{name}.weight"],
            tensors[f"{name}.bias"],
            padding=dilation,
            dilation=dilation,
        )
    return total


def _vgg(model: nn.Module, tensors: Tensors, image: Any) -> Any:
    """Logits of DeepLabV2-VGG16, whose file numbers ReLUs and poolings too."""
    from torch.nn import functional as F

    def conv(x, position, dilation):
        name = f"feature_extractor/backbone.{position}"
        weight, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
        return F.relu(F.conv2d(x, weight, bias, padding=dilation, dilation=dilation))

    x = image
    for group, blocks in enumerate(model.blocks):
        for block in range(blocks):
            x = conv(x, _VGG_GROUPS[group] + 2 * block, 2 if group == 4 else 1)
        if group < 3:
            x = F.max_pool2d(x, 2, 2)
    for position in _VGG_FC:
        x = conv(x, position, 4)
    return _branches(model, tensors, x, "classifier/conv2d_list.{}")


def _resnet(backbone: str, head: str) -> Callable[..., Any]:
    return lambda model, tensors, image: _deeplab(
        model, tensors, image, backbone=backbone, head=head
    )


FORWARDS: dict[str, Callable[..., Any]] = {
    "deeplab_v2": _resnet("feature_extractor/backbone.", "classifier/conv2d_list.{}"),
    "deeplab_v2_atp": _resnet("backbone.", "decode_head.aspp_modules.{}.conv"),
    "deeplab_v2_crst": _resnet("", "layer5.conv2d_list.{}"),
    "deeplab_v2_iast": _resnet("backbone.", "decoder.aspp.conv2d_list.{}"),
    "deeplab_v2_vgg": _vgg,
}
"""Layout → `(model, tensors, image) -> logits`, tensors by the layout's keys."""


def torch_logits(
    layout: str, model: nn.Module, arrays: Mapping[str, np.ndarray], image: np.ndarray
) -> np.ndarray:
    """Logits `[1, h, w, C]` of a file's arrays in PyTorch.

    Args:
        layout: of the arrays' keys, one of `FORWARDS`.
        model: the network's settings.
        arrays: of the file.
        image: `[1, H, W, 3]`, normalised.

    Raises:
        ImportError: PyTorch is not installed.
    """
    import torch

    tensors = {
        key: torch.from_numpy(np.array(array, np.float32))
        for key, array in arrays.items()
    }
    with torch.no_grad():
        planar = torch.from_numpy(np.array(image.transpose(0, 3, 1, 2)))
        logits = FORWARDS[layout](model, tensors, planar)
    return logits.numpy().transpose(0, 2, 3, 1)
