"""DeepLabV3+ on a ResNet (ResNet-101 by default), output stride 16, as in BiSMAP."""

import functools
from collections.abc import Sequence
from typing import ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from sfda_jax.models.base import Segmenter
from sfda_jax.models.layers import BatchNorm, at_least_float32, kaiming_fan_in
from sfda_jax.models.pyramid_head import ConvNorm, PyramidHead
from sfda_jax.models.resnet import ResNet
from sfda_jax.ops.resize import resize_bilinear

MULTI_GRID = ((1,), (1,), (1,), (2, 4, 8))
"""Dilations of the backbone: the last stage keeps its size, with multi-grid 1, 2, 4."""


class Aspp(nn.Module):
    """Parallel convolutions and the image's mean, concatenated and merged.

    Attributes:
        channels: of every branch and of the output.
        dilations: of the 3x3 branches; a 1x1 branch comes first.
        norm: constructor of BatchNorm, settings bound.
        dtype: of the computation.
    """

    channels: int
    dilations: tuple[int, ...]
    norm: functools.partial
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, features: Float[Array, "b h w i"], *, use_running_average: bool
    ) -> Float[Array, "b h w o"]:
        """Merged features, in `dtype`."""

        def branch(x, name, **settings):
            layer = ConvNorm(
                self.channels,
                self.norm,
                kernel_init=kaiming_fan_in,
                dtype=self.dtype,
                name=name,
                **settings,
            )
            return layer(x, use_running_average=use_running_average)

        branches = [branch(features, "branch0")]
        for index, dilation in enumerate(self.dilations, start=1):
            settings = {"kernel_size": 3, "dilation": dilation}
            branches.append(branch(features, f"branch{index}", **settings))
        scene = at_least_float32(features).mean((1, 2), keepdims=True)
        scene = branch(scene, "pool")
        branches.append(jnp.broadcast_to(scene, branches[0].shape))
        return branch(jnp.concatenate(branches, axis=-1), "merge")


class Decoder(nn.Module):
    """ASPP of the last stage's map, enlarged and merged with the first stage's.

    Attributes:
        channels: of the ASPP and of the decoder.
        low_channels: to which the first stage's map is reduced.
        dilations: of the ASPP's 3x3 branches.
        norm: constructor of BatchNorm, settings bound.
        dtype: of the computation.
    """

    channels: int
    low_channels: int
    dilations: tuple[int, ...]
    norm: functools.partial
    dtype: str = "float32"

    def setup(self):  # noqa: D102
        layer = functools.partial(
            ConvNorm, norm=self.norm, kernel_init=kaiming_fan_in, dtype=self.dtype
        )
        self.aspp = Aspp(self.channels, self.dilations, self.norm, self.dtype)
        self.reduce_low = layer(self.low_channels)
        self.conv1 = layer(self.channels, kernel_size=3)
        self.conv2 = layer(self.channels, kernel_size=3)

    def __call__(
        self, maps: Sequence[Float[Array, "b _h _w _c"]], *, use_running_average: bool
    ) -> Float[Array, "b h w d"]:
        """Decoded features at the size of the first map, not negative."""
        scene = self.aspp(maps[-1], use_running_average=use_running_average)
        return self.merge(maps[0], scene, use_running_average=use_running_average)

    def merge(
        self,
        low: Float[Array, "b H W l"],
        scene: Float[Array, "b h w s"],
        *,
        use_running_average: bool,
    ) -> Float[Array, "b H W d"]:
        """Decoded features of the first map and of the ASPP's output."""
        mode = {"use_running_average": use_running_average}
        scene = resize_bilinear(scene, low.shape[1:3], align_corners=True)
        x = jnp.concatenate([scene, self.reduce_low(low, **mode)], axis=-1)
        return self.conv2(self.conv1(x, **mode), **mode)


class Model(Segmenter):
    """DeepLabV3+ (Chen et al., 2018) as released with BiSMAP.

    The features are the classifier's input: decoded, after the dropout. Settings of
    BatchNorm hold for the whole network, `frozen_bn` and `fixed_bn` for the backbone.

    Attributes:
        num_classes: C.
        stem_channels: channels of the stem.
        planes: inner channels of the four stages.
        blocks: blocks of the four stages.
        strides: of the four stages.
        block_dilations: per stage, of its first blocks; the last one is the rest's.
        head_channels: of ASPP and decoder.
        low_channels: to which the first stage's features are reduced.
        dilations: of the ASPP's 3x3 branches.
        dropout: share of the decoder's channels dropped in training.
        frozen_bn: keep the affine vectors of the backbone's BatchNorm out of the
            parameters.
        fixed_bn: the backbone's BatchNorm always uses its stored statistics.
        bn_eps: added to every variance.
        bn_momentum: weight of a batch in the running statistics.
        dtype: of the computation; parameters and outputs are float32.
        axis_name: device axis that shares batch statistics.
        remat: stages (`layer1` to `layer4`) whose blocks are computed again for the
            gradient.
        scan_blocks: compile equal neighbouring blocks once.
    """

    num_classes: int
    stem_channels: int = 64
    planes: tuple[int, ...] = (64, 128, 256, 512)
    blocks: tuple[int, ...] = (3, 4, 23, 3)
    strides: tuple[int, ...] = (1, 2, 2, 1)
    block_dilations: tuple[tuple[int, ...], ...] = MULTI_GRID
    head_channels: int = 256
    low_channels: int = 48
    dilations: tuple[int, ...] = (6, 12, 18)
    dropout: float = 0.1
    frozen_bn: bool = False
    fixed_bn: bool = False
    bn_eps: float = 1e-5
    bn_momentum: float = 0.1
    dtype: str = "float32"
    axis_name: str | None = None
    remat: tuple[str, ...] = ()
    scan_blocks: bool = False

    stride: ClassVar[int] = 4

    def setup(self):  # noqa: D102
        shared = {"axis_name": self.axis_name, "dtype": self.dtype}
        self.backbone = ResNet(
            self.stem_channels,
            self.planes,
            self.blocks,
            strides=self.strides,
            block_dilations=self.block_dilations,
            frozen_bn=self.frozen_bn,
            fixed_bn=self.fixed_bn,
            bn_eps=self.bn_eps,
            bn_momentum=self.bn_momentum,
            remat=self.remat,
            scan_blocks=self.scan_blocks,
            **shared,
        )
        norm = functools.partial(
            BatchNorm, eps=self.bn_eps, momentum=self.bn_momentum, **shared
        )
        decoder = functools.partial(
            Decoder,
            self.head_channels,
            self.low_channels,
            self.dilations,
            norm,
            self.dtype,
        )
        self.head = PyramidHead(
            self.num_classes,
            decoder,
            self.dropout,
            kernel_init=kaiming_fan_in,
            **shared,
        )

    def features(
        self,
        images: Float[Array, "b h w 3"],
        *,
        deterministic: bool = True,
        use_running_average: bool = True,
    ) -> Float[Array, "b H W d"]:
        """The decoder's output, what `classify` takes."""
        stages = self.backbone(images, use_running_average=use_running_average)
        return self.head.decode(
            stages,
            deterministic=deterministic,
            use_running_average=use_running_average,
        )
