"""DAFormer (Hoyer et al., 2022): Mix Transformer and a context-aware fusion head."""

import functools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from sfda_jax.models.pyramid import PyramidSegmenter
from sfda_jax.models.pyramid_head import ConvNorm, embed_maps

PUBLISHED: dict[str, dict[str, Any]] = {
    "daformer": {},
    "atp": {"projection_channels": 512},
}
"""Settings of the released networks: DAFormer's, and the one of ATP and SePiCo."""


class SeparableAspp(nn.Module):
    """Embedded maps, parallel depthwise-separable dilated convolutions, one 3x3.

    Attributes:
        embed_channels: of every embedded map.
        channels: of every branch and of the output.
        dilations: of the branches; 1 stands for a 1x1 convolution.
        norm: constructor of BatchNorm, settings bound.
        dtype: of the computation.
    """

    embed_channels: int
    channels: int
    dilations: tuple[int, ...]
    norm: functools.partial
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self,
        maps: Sequence[Float[Array, "b _h _w _c"]],
        *,
        use_running_average: bool,
    ) -> Float[Array, "b h w d"]:
        """Fused features at the size of the first map."""

        def layer(name, x, features, **settings):
            block = ConvNorm(
                features, self.norm, dtype=self.dtype, name=name, **settings
            )
            return block(x, use_running_average=use_running_average)

        x = embed_maps(maps, self.embed_channels, self.dtype)
        branches = []
        for index, dilation in enumerate(self.dilations):
            y, name = x, f"branch{index}"
            if dilation > 1:
                settings = {"dilation": dilation, "depthwise": True}
                y = layer(f"{name}_depthwise", y, y.shape[-1], **settings)
                name = f"{name}_pointwise"
            branches.append(layer(name, y, self.channels))
        y = jnp.concatenate(branches, axis=-1)
        return layer("bottleneck", y, self.channels, kernel_size=3)


class Model(PyramidSegmenter):
    """DAFormer; with `projection_channels` the student of ATP and SePiCo.

    Beside the attributes of `PyramidSegmenter`:

    Attributes:
        embed_channels: of every embedded map.
        channels: of the fused features.
        dilations: of the fusion's branches.
    """

    embed_channels: int = 256
    channels: int = 256
    dilations: tuple[int, ...] = (1, 6, 12, 18)

    def fusion(self, norm: functools.partial) -> functools.partial:
        """DAFormer's fusion of embedded maps."""
        return functools.partial(
            SeparableAspp,
            self.embed_channels,
            self.channels,
            self.dilations,
            norm,
            self.dtype,
        )
