"""Dilated ResNet of bottleneck blocks, output stride 8."""

import functools

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from sfda_jax.models.layers import BatchNorm, Conv

_EXPANSION = 4
_LAST_SCALE = 0.2


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions around a shortcut; the stride sits on the 3x3.

    Attributes:
        planes: channels of the two inner convolutions; the output has four times as
            many.
        stride: of the block.
        dilation: of the 3x3 convolution.
        project: put a 1x1 convolution and BatchNorm on the shortcut.
        norm: constructor of BatchNorm, settings bound.
        dtype: of the computation.
    """

    planes: int
    stride: int
    dilation: int
    project: bool
    norm: functools.partial
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w i"], *, use_running_average: bool
    ) -> Float[Array, "b H W o"]:
        """Features of the block, after the last ReLU."""
        conv = functools.partial(Conv, dtype=self.dtype)
        outputs = _EXPANSION * self.planes

        def norm(name, y):
            return self.norm(name=name)(y, use_running_average=use_running_average)

        y = nn.relu(norm("bn1", conv(self.planes, 1, name="conv1")(x)))
        middle = conv(
            self.planes,
            3,
            stride=self.stride,
            padding=self.dilation,
            dilation=self.dilation,
            name="conv2",
        )
        y = nn.relu(norm("bn2", middle(y)))
        y = conv(outputs, 1, name="conv3")(y)
        # Without a checkpoint nothing is normalised, and 33 sums would overflow.
        last = self.norm(name="bn3", frozen_scale=_LAST_SCALE)
        y = last(y, use_running_average=use_running_average)
        if self.project:
            x = conv(outputs, 1, stride=self.stride, name="downsample_conv")(x)
            x = norm("downsample_bn", x)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """ResNet whose last two stages are dilated instead of strided (Stable-ST).

    The first block of a dilated stage still uses the previous stage's dilation.

    Attributes:
        stem_channels: channels of the 7x7 convolution.
        planes: inner channels of the four stages.
        blocks: number of blocks of the four stages; (3, 4, 23, 3) is ResNet-101.
        frozen_bn: keep BatchNorm's affine vectors out of the parameters.
        bn_eps: added to every variance.
        bn_momentum: weight of a batch in the running statistics.
        dtype: of the computation.
        axis_name: device axis that shares batch statistics.
    """

    stem_channels: int = 64
    planes: tuple[int, ...] = (64, 128, 256, 512)
    blocks: tuple[int, ...] = (3, 4, 23, 3)
    frozen_bn: bool = True
    bn_eps: float = 0.0
    bn_momentum: float = 0.1
    dtype: str = "float32"
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, images: Float[Array, "b h w 3"], *, use_running_average: bool
    ) -> tuple[Float[Array, "b H W c"], Float[Array, "b H W d"]]:
        """Outputs of the third and the fourth stage, both at stride 8."""
        norm = functools.partial(
            BatchNorm,
            frozen=self.frozen_bn,
            eps=self.bn_eps,
            momentum=self.bn_momentum,
            axis_name=self.axis_name,
            dtype=self.dtype,
        )
        stem = Conv(
            self.stem_channels, 7, stride=2, padding=3, dtype=self.dtype, name="conv1"
        )
        x = norm(name="bn1")(stem(images), use_running_average=use_running_average)
        x = nn.max_pool(nn.relu(x), (3, 3), (2, 2), ((1, 1), (1, 1)))
        strides, first_dilations, dilations = (1, 2, 1, 1), (1, 1, 1, 2), (1, 1, 2, 4)
        outputs = []
        for stage in range(4):
            for block in range(self.blocks[stage]):
                first = block == 0
                stride = strides[stage] if first else 1
                outputs_differ = x.shape[-1] != _EXPANSION * self.planes[stage]
                x = Bottleneck(
                    self.planes[stage],
                    stride,
                    first_dilations[stage] if first else dilations[stage],
                    stride != 1 or outputs_differ,
                    norm,
                    self.dtype,
                    name=f"layer{stage + 1}_{block}",
                )(x, use_running_average=use_running_average)
            outputs.append(x.astype(jnp.float32))
        return outputs[2], outputs[3]
