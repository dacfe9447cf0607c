"""What heads on several feature maps have in common: parts, dropout, classifier."""

import functools
from collections.abc import Callable, Sequence

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from sfda_jax.models.depthwise import DepthwiseConv
from sfda_jax.models.layers import (
    BatchNorm,
    Conv,
    at_least_float32,
    kaiming_fan_out,
    uniform_fan_in,
)
from sfda_jax.models.stochastic import ChannelDropout
from sfda_jax.ops.resize import resize_bilinear


def batch_norm(
    dtype: str, axis_name: str | None = None, momentum: float = 0.1
) -> functools.partial:
    """Constructor of the heads' BatchNorm: trained, eps 1e-5."""
    return functools.partial(
        BatchNorm, momentum=momentum, dtype=dtype, axis_name=axis_name
    )


class ConvNorm(nn.Module):
    """Convolution without bias and of unchanged size, BatchNorm, ReLU.

    Attributes:
        features: output channels; a depthwise convolution has those of its input.
        norm: constructor of BatchNorm, settings bound.
        kernel_size: 1 or 3.
        dilation: of a 3x3 convolution.
        depthwise: 3x3, every channel on its own.
        kernel_init: initialiser of a kernel that is not depthwise.
        dtype: of the computation.
    """

    features: int
    norm: functools.partial
    kernel_size: int = 1
    dilation: int = 1
    depthwise: bool = False
    kernel_init: Callable[..., Array] = kaiming_fan_out
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w i"], *, use_running_average: bool
    ) -> Float[Array, "b h w o"]:
        """Features after the ReLU."""
        if self.depthwise:
            conv = DepthwiseConv(self.dilation, dtype=self.dtype, name="conv")
        else:
            conv = Conv(
                self.features,
                self.kernel_size,
                padding=self.dilation if self.kernel_size > 1 else 0,
                dilation=self.dilation,
                kernel_init=self.kernel_init,
                dtype=self.dtype,
                name="conv",
            )
        y = self.norm(name="bn")(conv(x), use_running_average=use_running_average)
        return nn.relu(y)


def enlarge_all(
    maps: Sequence[Float[Array, "b _h _w _c"]], dtype: str
) -> list[Float[Array, "b h w _c"]]:
    """Every map in `dtype`, at the size of the first one."""
    maps = [x.astype(dtype) for x in maps]
    size = maps[0].shape[1:3]
    return [resize_bilinear(x, size, align_corners=False) for x in maps]


def embed_maps(
    maps: Sequence[Float[Array, "b _h _w _c"]], channels: int, dtype: str
) -> Float[Array, "b h w d"]:
    """Every map through a linear layer of its own, enlarged, all concatenated.

    For a module's compact method, whose `embed0`, `embed1`, … the layers become.
    """
    embedded = []
    for index, x in enumerate(maps):
        init = uniform_fan_in(x.shape[-1])
        embed = nn.Dense(
            channels,
            dtype=jnp.dtype(dtype),
            kernel_init=init,
            bias_init=init,
            name=f"embed{index}",
        )
        embedded.append(embed(x))
    return jnp.concatenate(enlarge_all(embedded, dtype), axis=-1)


class PyramidHead(nn.Module):
    """Fusion of the maps, dropout of channels, 1x1 convolution to logits.

    Attributes:
        num_classes: C.
        fusion: constructor of the module `fuse`, which makes one map of several.
        dropout: share of the fused channels dropped in training.
        kernel_init: initialiser of the classifier.
        dtype: of the computation; features and logits are float32.
        axis_name: device axis that the batch is split over.
    """

    num_classes: int
    fusion: functools.partial
    dropout: float = 0.1
    kernel_init: Callable[..., Array] = nn.initializers.normal(0.01)
    dtype: str = "float32"
    axis_name: str | None = None

    def setup(self):  # noqa: D102
        self.fuse = self.fusion()
        self.channel_dropout = ChannelDropout(self.dropout, self.axis_name)
        self.classifier = Conv(
            self.num_classes,
            1,
            use_bias=True,
            kernel_init=self.kernel_init,
            bias_init=nn.initializers.zeros,
            dtype=self.dtype,
        )

    def decode(
        self,
        maps: Sequence[Float[Array, "b _h _w _c"]],
        *,
        deterministic: bool,
        use_running_average: bool,
    ) -> Float[Array, "b h w d"]:
        """Fused features after the dropout, not negative.

        Args:
            maps: of falling size.
            deterministic: no dropout.
            use_running_average: normalise with the stored BatchNorm statistics.
        """
        x = self.fuse(maps, use_running_average=use_running_average)
        return at_least_float32(self.channel_dropout(x, deterministic=deterministic))

    def __call__(self, features: Float[Array, "b h w d"]) -> Float[Array, "b h w c"]:
        """Logits of decoded features."""
        return at_least_float32(self.classifier(features))
