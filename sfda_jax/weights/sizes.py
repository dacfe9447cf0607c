"""Sizes of a network, read off the shapes in its file.

What is asked for are our names; the layout translates them, so that one function
serves every layout of a kind.
"""

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from sfda_jax.errors import CheckpointError
from sfda_jax.weights.layout import joined

Shape = tuple[int, ...]
_VGG_LONGEST = 3
_Lookup = Callable[..., Shape | None]


def sizes_of(
    kind: str, layout: ModuleType | None, shapes: Mapping[str, Shape]
) -> dict[str, Any]:
    """Attributes of the kind's `Model`; empty where it has no rule or the file is odd.

    Args:
        kind: module of `sfda_jax.models`.
        layout: by which the file names its arrays.
        shapes: of the file's arrays, by the layout's keys.
    """
    if layout is None or kind not in _RULES:
        return {}

    def shape(*path: str) -> Shape | None:
        try:
            return shapes.get(joined(*layout.published_name(("backbone", *path))))
        except (CheckpointError, KeyError):
            return None

    return _RULES[kind](shape)


def _counted(shape: _Lookup, name: str, *rest: str) -> int:
    """How many of `name0`, `name1`, … there are."""
    count = 0
    while shape(f"{name}{count}", *rest) is not None:
        count += 1
    return count


def _resnet(shape: _Lookup) -> dict[str, Any]:
    stages = ("layer1", "layer2", "layer3", "layer4")
    first = [shape(f"{stage}_0", "conv1", "kernel") for stage in stages]
    if None in first:
        return {}
    return {
        "stem_channels": first[0][1],
        "planes": tuple(kernel[0] for kernel in first),
        "blocks": tuple(_counted(shape, f"{s}_", "conv1", "kernel") for s in stages),
    }


def _vgg(shape: _Lookup) -> dict[str, Any]:
    groups = [f"conv{group}_" for group in range(1, 6)]
    first = [shape(f"{group}0", "kernel") for group in groups]
    last = shape("fc7", "kernel")
    if None in first or last is None:
        return {}
    return {
        "planes": tuple(kernel[0] for kernel in first),
        # The file's numbers run on from one group to the next without a pooling.
        "blocks": tuple(
            min(_counted(shape, group, "kernel"), _VGG_LONGEST) for group in groups
        ),
        "fc_planes": last[0],
    }


_RULES: dict[str, Callable[[_Lookup], dict[str, Any]]] = {
    "deeplab_v2": _resnet,
    "deeplab_v2_vgg": _vgg,
    "deeplab_v3_plus": _resnet,
}
