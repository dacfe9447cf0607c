"""One forward pass of any network, from stored images to output and statistics."""

from typing import Literal

from flax import linen as nn
from jaxtyping import Array, Float, PyTree, Shaped

from sfda_jax.ops.color import normalize
from sfda_jax.ops.resize import resize_bilinear
from sfda_jax.types import Key, ModelState, SegOutput


def normalization(model: nn.Module) -> str:
    """The scheme of `ops.color.SCHEMES` that a network takes; `imagenet` by default."""
    return getattr(model, "normalization", "imagenet")


def network_input(
    model: nn.Module, images: Shaped[Array, "b h w 3"]
) -> Float[Array, "b h w 3"]:
    """Stored images, normalised as the network's publication has it.

    Args:
        model: the module.
        images: uint8 RGB; floats are taken as normalised and pass unchanged.
    """
    return normalize(images, normalization(model))


def forward(
    model: nn.Module,
    network: ModelState,
    images: Shaped[Array, "b h w 3"],
    *,
    statistics: Literal["running", "batch"],
    key: Key | None = None,
) -> tuple[SegOutput, PyTree]:
    """The network's output, and its `batch_stats` after this batch.

    Args:
        model: the module.
        network: its variables.
        images: uint8 RGB, or already normalised floats.
        statistics: BatchNorm normalises with its `running` statistics, which stay, or
            with those of the `batch`, which move them.
        key: of dropout; None leaves dropout out.
    """
    output, changed = model.apply(
        network.variables,
        network_input(model, images),
        deterministic=key is None,
        use_running_average=statistics == "running",
        mutable=["batch_stats"],
        rngs=None if key is None else {"dropout": key},
    )
    return output, changed.get("batch_stats", network.batch_stats)


def enlarged(
    model: nn.Module, logits: Float[Array, "b _h _w c"], size: tuple[int, int]
) -> Float[Array, "b h w c"]:
    """Logits at `size`, (height, width), as the network's publication enlarges them."""
    corners = getattr(model, "align_corners", True)
    return resize_bilinear(logits, size, align_corners=corners)


def head_logits(
    model: nn.Module, head: PyTree, features: Float[Array, "b h w d"]
) -> Float[Array, "b h w c"]:
    """Logits of given features, as a function of the head's parameters alone.

    For a `models.base.Segmenter` whose classifier has no BatchNorm of its own: the
    `features` of its output, put in again, give its logits.

    Args:
        model: the module.
        head: the network's `params["head"]`.
        features: at the network's stride.
    """
    return model.apply({"params": {"head": head}}, features, method="classify")
