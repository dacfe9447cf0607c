"""Wide ResNet-38 (A1), output stride 8: the network of CBST (Zou et al., ECCV 2018)."""

import functools
from typing import ClassVar

from flax import linen as nn
from jaxtyping import Array, Float

from sfda_jax.models.base import Segmenter
from sfda_jax.models.layers import BatchNorm, Conv, at_least_float32, kaiming_fan_in
from sfda_jax.models.repeated import check_stages, run_blocks

_FIRST_LEVEL = 2
_OUTPUT_STRIDE = 8


class Block(nn.Module):
    """Pre-activation residual block of two 3x3 or of 1x1, 3x3, 1x1 convolutions.

    One activation of the input feeds both the branch and the projection; an identity
    shortcut carries the input itself.

    Attributes:
        planes: channels of the two or three convolutions.
        stride: of the first convolution and of the projection.
        dilations: of the first convolution and of the others; 1x1 ones have none.
        project: put a 1x1 convolution on the shortcut.
        dropout: rate before the last convolution.
        norm: constructor of BatchNorm, settings bound.
        dtype: of the computation.
    """

    planes: tuple[int, ...]
    stride: int
    dilations: tuple[int, int]
    project: bool
    dropout: float
    norm: functools.partial
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w i"],
        *,
        deterministic: bool,
        use_running_average: bool,
    ) -> Float[Array, "b H W o"]:
        """Features of the block, not yet normalised."""
        conv = functools.partial(Conv, kernel_init=kaiming_fan_in, dtype=self.dtype)
        kernel_sizes = (3, 3) if len(self.planes) == 2 else (1, 3, 1)
        y, shortcut = x, x
        for index, (planes, size) in enumerate(
            zip(self.planes, kernel_sizes, strict=True)
        ):
            first = index == 0
            norm = self.norm(name=f"bn{index + 1}")
            y = nn.relu(norm(y, use_running_average=use_running_average))
            if first and self.project:
                shortcut = conv(
                    self.planes[-1], 1, stride=self.stride, name="downsample_conv"
                )(y)
            if index == len(self.planes) - 1:
                y = nn.Dropout(self.dropout, deterministic=deterministic)(y)
            dilation = self.dilations[0 if first else 1] if size == 3 else 1
            y = conv(
                planes,
                size,
                stride=self.stride if first else 1,
                padding=dilation if size == 3 else 0,
                dilation=dilation,
                name=f"conv{index + 1}",
            )(y)
        return shortcut + y


class WideResNet(nn.Module):
    """Stem convolution, levels of blocks, last BatchNorm and ReLU; no pooling.

    Where a level's stride would leave output stride 8, it becomes dilation of all but
    the first convolution.

    Attributes: as of `Model`; `norm` is the constructor of BatchNorm, settings bound.
    """

    stem_channels: int
    planes: tuple[tuple[int, ...], ...]
    blocks: tuple[int, ...]
    strides: tuple[int, ...]
    dropouts: tuple[float, ...]
    norm: functools.partial
    dtype: str = "float32"
    remat: tuple[str, ...] = ()
    scan_blocks: bool = False

    def setup(self):  # noqa: D102
        check_stages("model.remat", self.remat, self._levels())
        self.conv1 = Conv(
            self.stem_channels,
            3,
            padding=1,
            kernel_init=kaiming_fan_in,
            dtype=self.dtype,
        )
        total_stride, dilation = 1, 1
        for index, level in enumerate(self._levels()):
            stride, first_dilation = self.strides[index], dilation
            if total_stride * stride > _OUTPUT_STRIDE:
                stride, dilation = 1, dilation * stride
            total_stride *= stride
            block = functools.partial(
                Block,
                self.planes[index],
                dropout=self.dropouts[index],
                norm=self.norm,
                dtype=self.dtype,
            )
            first = block(stride, (first_dilation, dilation), True)
            setattr(self, f"{level}_0", first)
            for later in range(1, self.blocks[index]):
                setattr(self, f"{level}_{later}", block(1, (dilation,) * 2, False))
        self.bn7 = self.norm()

    def __call__(
        self,
        images: Float[Array, "b h w 3"],
        *,
        deterministic: bool,
        use_running_average: bool,
    ) -> Float[Array, "b H W d"]:
        """Activated features at stride 8, float32."""

        def call(block, x):
            return block(
                x,
                deterministic=deterministic,
                use_running_average=use_running_average,
            )

        x = self.conv1(images)
        for level, count in zip(self._levels(), self.blocks, strict=True):
            x = run_blocks(
                call,
                [getattr(self, f"{level}_{index}") for index in range(count)],
                x,
                remat=level in self.remat,
                scan=self.scan_blocks,
            )
        x = self.bn7(x, use_running_average=use_running_average)
        return at_least_float32(nn.relu(x))

    def _levels(self) -> list[str]:
        return [f"layer{_FIRST_LEVEL + index}" for index in range(len(self.planes))]


class Head(nn.Module):
    """Two dilated 3x3 convolutions with bias, ReLU between them.

    Attributes:
        num_classes: C.
        planes: channels between the two.
        dilation: of both.
        dtype: of the computation; logits are float32.
    """

    num_classes: int
    planes: int
    dilation: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, features: Float[Array, "b h w d"]) -> Float[Array, "b h w c"]:
        """Logits, at the size of the features."""
        conv = functools.partial(
            Conv,
            kernel_size=3,
            padding=self.dilation,
            dilation=self.dilation,
            use_bias=True,
            kernel_init=kaiming_fan_in,
            bias_init=nn.initializers.zeros,
            dtype=self.dtype,
        )
        y = nn.relu(conv(self.planes, name="conv1")(features))
        return at_least_float32(conv(self.num_classes, name="classifier")(y))


class Model(Segmenter):
    """ResNet-38 A1 as released with CBST (`rna-a1_cls{C}_s8`).

    In the published training BatchNorm always uses its stored statistics while its
    scale and bias are trained, and dropout is active; biases have another learning
    rate and no decay (`parameter_groups.cbst_rate_and_decay`).

    Attributes:
        num_classes: C.
        stem_channels: channels of the first convolution (level 1).
        planes: channels of every convolution of a block, one entry per level from 2.
        blocks: blocks of every level.
        strides: of every level's first block.
        dropouts: rate before the last convolution of a level's blocks.
        head_planes: channels between the head's convolutions.
        head_dilation: of the head's convolutions.
        fixed_bn: always normalise with the stored statistics.
        bn_eps: added to every variance.
        bn_momentum: weight of a batch in the running statistics.
        dtype: of the computation; parameters and outputs are float32.
        axis_name: device axis that shares batch statistics.
        remat: levels (`layer2` to `layer7`) computed again for the gradient.
        scan_blocks: compile equal neighbouring blocks once.
    """

    num_classes: int
    stem_channels: int = 64
    planes: tuple[tuple[int, ...], ...] = (
        (128, 128),
        (256, 256),
        (512, 512),
        (512, 1024),
        (512, 1024, 2048),
        (1024, 2048, 4096),
    )
    blocks: tuple[int, ...] = (3, 3, 6, 3, 1, 1)
    strides: tuple[int, ...] = (2, 2, 2, 2, 2, 1)
    dropouts: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0, 0.3, 0.5)
    head_planes: int = 512
    head_dilation: int = 12
    fixed_bn: bool = True
    bn_eps: float = 1.001e-5
    bn_momentum: float = 0.1
    dtype: str = "float32"
    axis_name: str | None = None
    remat: tuple[str, ...] = ()
    scan_blocks: bool = False

    stride: ClassVar[int] = _OUTPUT_STRIDE

    def setup(self):  # noqa: D102
        norm = functools.partial(
            BatchNorm,
            fixed=self.fixed_bn,
            eps=self.bn_eps,
            momentum=self.bn_momentum,
            axis_name=self.axis_name,
            dtype=self.dtype,
        )
        self.backbone = WideResNet(
            self.stem_channels,
            tuple(tuple(planes) for planes in self.planes),
            tuple(self.blocks),
            tuple(self.strides),
            tuple(self.dropouts),
            norm,
            self.dtype,
            tuple(self.remat),
            self.scan_blocks,
        )
        self.head = Head(
            self.num_classes, self.head_planes, self.head_dilation, self.dtype
        )

    def features(
        self,
        images: Float[Array, "b h w 3"],
        *,
        deterministic: bool = True,
        use_running_average: bool = True,
    ) -> Float[Array, "b H W d"]:
        """The last activation, what `classify` takes."""
        return self.backbone(
            images,
            deterministic=deterministic,
            use_running_average=use_running_average,
        )
