"""SegFormer (Xie et al., 2021): Mix Transformer and a head of linear layers."""

import functools
from collections.abc import Sequence
from typing import Any

from flax import linen as nn
from jaxtyping import Array, Float

from sfda_jax.models.mix_transformer import VARIANTS
from sfda_jax.models.pyramid import PyramidSegmenter
from sfda_jax.models.pyramid_head import ConvNorm, embed_maps

PUBLISHED: dict[str, dict[str, Any]] = {
    variant: {"variant": variant, "channels": 256 if variant in ("b0", "b1") else 768}
    for variant in VARIANTS
}
"""Settings of the released networks, by the size of their encoder."""


class LinearFusion(nn.Module):
    """Embedded maps, mixed by one 1x1 convolution.

    Attributes:
        channels: of every embedded map.
        norm: constructor of BatchNorm, settings bound.
        dtype: of the computation.
        fused_channels: of the output; 0 for as many.
    """

    channels: int
    norm: functools.partial
    dtype: str = "float32"
    fused_channels: int = 0

    @nn.compact
    def __call__(
        self,
        maps: Sequence[Float[Array, "b _h _w _c"]],
        *,
        use_running_average: bool,
    ) -> Float[Array, "b h w d"]:
        """Fused features at the size of the first map."""
        x = embed_maps(maps, self.channels, self.dtype)
        fused = self.fused_channels or self.channels
        mix = ConvNorm(fused, self.norm, dtype=self.dtype, name="mix")
        return mix(x, use_running_average=use_running_average)


class Model(PyramidSegmenter):
    """SegFormer; the defaults are B5's, `PUBLISHED` has the other sizes.

    Beside the attributes of `PyramidSegmenter`:

    Attributes:
        channels: of every embedded map.
        fused_channels: of the fused features; 0 for as many.
    """

    channels: int = 768
    fused_channels: int = 0

    def fusion(self, norm: functools.partial) -> functools.partial:
        """SegFormer's fusion of embedded maps."""
        return functools.partial(
            LinearFusion,
            self.channels,
            norm,
            self.dtype,
            fused_channels=self.fused_channels,
        )
