"""ResNets of bottleneck blocks, strided or dilated: one network, its published variants
by configuration."""

import functools

from flax import linen as nn
from jaxtyping import Array, Float

from sfda_jax.models.layers import BatchNorm, Conv, at_least_float32, max_pool3x3
from sfda_jax.models.repeated import check_stages, run_blocks

STAGES = ("layer1", "layer2", "layer3", "layer4")
"""Names of the stages, what `remat` takes."""

DILATED_AFTER_FIRST = ((1,), (1,), (1, 2), (2, 4))
"""Output stride 8; the first block of a dilated stage has the previous dilation."""

_EXPANSION = 4
_LAST_SCALE = 0.2


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions around a shortcut.

    Attributes:
        planes: channels of the two inner convolutions; the output has four times as
            many.
        stride: of the block.
        dilation: of the 3x3 convolution.
        project: put a 1x1 convolution and BatchNorm on the shortcut.
        norm: constructor of BatchNorm, settings bound.
        dtype: of the computation.
        stride_first: the stride sits on the first 1x1 convolution, not on the 3x3.
    """

    planes: int
    stride: int
    dilation: int
    project: bool
    norm: functools.partial
    dtype: str = "float32"
    stride_first: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w i"], *, use_running_average: bool
    ) -> Float[Array, "b H W o"]:
        """Features of the block, after the last ReLU."""
        conv = functools.partial(Conv, dtype=self.dtype)
        outputs = _EXPANSION * self.planes
        first, middle = (self.stride, 1) if self.stride_first else (1, self.stride)

        def norm(name, y):
            return self.norm(name=name)(y, use_running_average=use_running_average)

        y = conv(self.planes, 1, stride=first, name="conv1")(x)
        y = nn.relu(norm("bn1", y))
        y = conv(
            self.planes,
            3,
            stride=middle,
            padding=self.dilation,
            dilation=self.dilation,
            name="conv2",
        )(y)
        y = nn.relu(norm("bn2", y))
        y = conv(outputs, 1, name="conv3")(y)
        # Without a checkpoint nothing is normalised, and 33 sums would overflow.
        last = self.norm(name="bn3", frozen_scale=_LAST_SCALE)
        y = last(y, use_running_average=use_running_average)
        if self.project:
            x = conv(outputs, 1, stride=self.stride, name="downsample_conv")(x)
            x = norm("downsample_bn", x)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """Stem, pooling and four stages of bottleneck blocks.

    The defaults are Stable-ST's; `deeplab_v2.PUBLISHED` lists the other ones.

    Attributes:
        stem_channels: channels of the stem's output.
        planes: inner channels of the four stages.
        blocks: number of blocks of the four stages; (3, 4, 23, 3) is ResNet-101.
        strides: of the first blocks of the four stages.
        block_dilations: per stage, the dilations of its first blocks; the last one
            holds for the rest.
        deep_stem: three 3x3 convolutions in place of one 7x7 (ResNet v1c).
        stride_first: a block's stride sits on its first convolution.
        pool_ceil: the pooling rounds sizes up.
        frozen_bn: keep BatchNorm's affine vectors out of the parameters.
        fixed_bn: always normalise with the stored statistics.
        bn_eps: added to every variance.
        bn_momentum: weight of a batch in the running statistics.
        dtype: of the computation.
        axis_name: device axis that shares batch statistics.
        remat: stages whose blocks are computed again for the gradient.
        scan_blocks: compile equal neighbouring blocks once.
    """

    stem_channels: int = 64
    planes: tuple[int, ...] = (64, 128, 256, 512)
    blocks: tuple[int, ...] = (3, 4, 23, 3)
    strides: tuple[int, ...] = (1, 2, 1, 1)
    block_dilations: tuple[tuple[int, ...], ...] = DILATED_AFTER_FIRST
    deep_stem: bool = False
    stride_first: bool = False
    pool_ceil: bool = False
    frozen_bn: bool = True
    fixed_bn: bool = False
    bn_eps: float = 0.0
    bn_momentum: float = 0.1
    dtype: str = "float32"
    axis_name: str | None = None
    remat: tuple[str, ...] = ()
    scan_blocks: bool = False

    def setup(self):  # noqa: D102
        check_stages("model.remat", self.remat, STAGES)
        norm = functools.partial(
            BatchNorm,
            frozen=self.frozen_bn,
            fixed=self.fixed_bn,
            eps=self.bn_eps,
            momentum=self.bn_momentum,
            axis_name=self.axis_name,
            dtype=self.dtype,
        )
        conv = functools.partial(Conv, dtype=self.dtype)
        if self.deep_stem:
            half = self.stem_channels // 2
            self.conv1 = conv(half, 3, stride=2, padding=1)
            self.conv2 = conv(half, 3, padding=1)
            self.conv3 = conv(self.stem_channels, 3, padding=1)
            self.bn1, self.bn2, self.bn3 = norm(), norm(), norm()
        else:
            self.conv1 = conv(self.stem_channels, 7, stride=2, padding=3)
            self.bn1 = norm()
        for stage in range(len(STAGES)):
            for index in range(self.blocks[stage]):
                block = self._block(stage, index, norm)
                setattr(self, f"{STAGES[stage]}_{index}", block)

    def _block(self, stage: int, index: int, norm: functools.partial) -> Bottleneck:
        first = index == 0
        inputs = self.stem_channels
        if stage:
            inputs = _EXPANSION * self.planes[stage - 1]
        stride = self.strides[stage] if first else 1
        dilations = self.block_dilations[stage]
        return Bottleneck(
            self.planes[stage],
            stride,
            dilations[min(index, len(dilations) - 1)],
            first and (stride != 1 or inputs != _EXPANSION * self.planes[stage]),
            norm,
            self.dtype,
            self.stride_first,
        )

    def __call__(
        self, images: Float[Array, "b h w 3"], *, use_running_average: bool
    ) -> tuple[Float[Array, "b _h _w _c"], ...]:
        """Outputs of the four stages, float32."""
        x = self.stem(images, use_running_average=use_running_average)
        x = max_pool3x3(x, ceil_mode=self.pool_ceil)

        def call(block, x):
            return block(x, use_running_average=use_running_average)

        outputs = []
        for stage, count in zip(STAGES, self.blocks, strict=True):
            x = run_blocks(
                call,
                [getattr(self, f"{stage}_{index}") for index in range(count)],
                x,
                remat=stage in self.remat,
                scan=self.scan_blocks,
            )
            outputs.append(at_least_float32(x))
        return tuple(outputs)

    def stem(
        self, images: Float[Array, "b h w 3"], *, use_running_average: bool
    ) -> Float[Array, "b H W c"]:
        """Features at stride 2, before the pooling."""
        x, last = images, 3 if self.deep_stem else 1
        for index in range(1, last + 1):
            x = getattr(self, f"conv{index}")(x)
            norm = getattr(self, f"bn{index}")
            x = nn.relu(norm(x, use_running_average=use_running_average))
        return x
