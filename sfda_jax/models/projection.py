"""Projection heads of contrastive losses (SePiCo, ATP): unit vectors per place."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from sfda_jax.models.layers import at_least_float32
from sfda_jax.models.pyramid_head import ConvNorm, batch_norm, enlarge_all

_MIN_NORM = 1e-12


class ProjectionHead(nn.Module):
    """Two 1x1 convolutions with BatchNorm and ReLU, then unit length.

    Of several maps, all are enlarged to the first one's size and concatenated; the
    inner width is their mean number of channels, rounded down.

    Attributes:
        channels: of the projection.
        bn_momentum: weight of a batch in the running statistics.
        dtype: of the computation; projections are float32.
        axis_name: device axis that shares batch statistics.
    """

    channels: int = 512
    bn_momentum: float = 0.1
    dtype: str = "float32"
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self,
        maps: Sequence[Float[Array, "b _h _w _c"]],
        *,
        use_running_average: bool = True,
    ) -> Float[Array, "b h w p"]:
        """Projections of unit length, none negative, at the size of the first map.

        Args:
            maps: one feature map, or several of falling size.
            use_running_average: normalise with the stored BatchNorm statistics.
        """
        norm = batch_norm(self.dtype, self.axis_name, self.bn_momentum)
        width = sum(x.shape[-1] for x in maps) // len(maps)
        x = jnp.concatenate(enlarge_all(maps, self.dtype), axis=-1)
        for name, features in (("layer1", width), ("layer2", self.channels)):
            layer = ConvNorm(features, norm, dtype=self.dtype, name=name)
            x = layer(x, use_running_average=use_running_average)
        x = at_least_float32(x)
        square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
        # Bounded before the root, whose gradient at 0 is infinite.
        return x * lax.rsqrt(jnp.maximum(square, _MIN_NORM**2))
