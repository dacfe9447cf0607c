"""SimCLRv2 ResNet (Chen et al., NeurIPS 2020), the feature extractor of BiSMAP."""

import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from sfda_jax.models.base import Segmenter
from sfda_jax.models.layers import Conv, at_least_float32
from sfda_jax.models.resnet import ResNet

_EXPANSION = 4

PUBLISHED: dict[str, dict[str, Any]] = {
    "r152_sk1": {},
    "r101_sk0": {"blocks": (3, 4, 23, 3), "sk_ratio": 0.0},
}
"""Settings of the published networks, both of width 1."""


class SelectiveKernel(nn.Module):
    """Two 3x3 branches, weighed against each other per image and channel.

    Attributes:
        planes: C, of each branch and of the output.
        stride: of the branches.
        sk_ratio: channels of the layer that decides, relative to C.
        norm: constructor of BatchNorm, settings bound.
        dtype: of the computation.
        min_squeezed: least number of these channels.
    """

    planes: int
    stride: int
    sk_ratio: float
    norm: functools.partial
    dtype: str = "float32"
    min_squeezed: int = 32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w i"], *, use_running_average: bool
    ) -> Float[Array, "b H W o"]:
        """Weighted sum of the branches."""
        conv = functools.partial(Conv, dtype=self.dtype)

        def norm(name, y):
            return self.norm(name=name)(y, use_running_average=use_running_average)

        both = conv(2 * self.planes, 3, stride=self.stride, padding=1, name="conv")(x)
        first, second = jnp.split(nn.relu(norm("bn", both)), 2, axis=-1)
        scene = at_least_float32(first + second).mean((1, 2), keepdims=True)
        squeezed = max(int(self.planes * self.sk_ratio), self.min_squeezed)
        mix = conv(squeezed, 1, name="squeeze_conv")(scene)
        mix = nn.relu(norm("squeeze_bn", mix))
        mix = at_least_float32(conv(2 * self.planes, 1, name="expand_conv")(mix))
        shares = jax.nn.softmax(jnp.stack(jnp.split(mix, 2, axis=-1)), axis=0)
        shares = shares.astype(self.dtype)
        return shares[0] * first + shares[1] * second


class Projection(nn.Module):
    """Shortcut of other size: 2x2 mean, 1x1 convolution and BatchNorm.

    The row and the column of zeros that the mean needs at the end count in it.

    Attributes:
        outputs: channels.
        stride: of the mean.
        norm: constructor of BatchNorm, settings bound.
        dtype: of the computation.
    """

    outputs: int
    stride: int
    norm: functools.partial
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w i"], *, use_running_average: bool
    ) -> Float[Array, "b H W o"]:
        """Projected features, not activated."""
        stride = (self.stride, self.stride)
        x = nn.pool(x, 0.0, lax.add, (2, 2), stride, ((0, 1), (0, 1))) / 4
        x = Conv(self.outputs, 1, dtype=self.dtype, name="conv")(x)
        return self.norm(name="bn")(x, use_running_average=use_running_average)


class SelectiveBottleneck(nn.Module):
    """Bottleneck whose 3x3 convolution is a selective kernel.

    Attributes:
        planes: inner channels; the output has four times as many.
        stride: of the block.
        project: put a projection on the shortcut.
        sk_ratio: of the selective kernel.
        norm: constructor of BatchNorm, settings bound.
        dtype: of the computation.
    """

    planes: int
    stride: int
    project: bool
    sk_ratio: float
    norm: functools.partial
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w i"], *, use_running_average: bool
    ) -> Float[Array, "b H W o"]:
        """Features of the block, after the last ReLU."""
        layer = {"norm": self.norm, "dtype": self.dtype}
        statistics = {"use_running_average": use_running_average}
        outputs = _EXPANSION * self.planes
        y = Conv(self.planes, 1, dtype=self.dtype, name="conv1")(x)
        y = nn.relu(self.norm(name="bn1")(y, **statistics))
        y = SelectiveKernel(
            self.planes, self.stride, self.sk_ratio, **layer, name="select"
        )(y, **statistics)
        y = Conv(outputs, 1, dtype=self.dtype, name="output_conv")(y)
        y = self.norm(name="output_bn")(y, **statistics)
        if self.project:
            x = Projection(outputs, self.stride, **layer, name="projection")(
                x, **statistics
            )
        return nn.relu(x + y)


class SelectiveResNet(ResNet):
    """ResNet of selective-kernel blocks.

    Attributes: as of `ResNet`, and `sk_ratio` of every selective kernel.
    """

    sk_ratio: float = 0.0625

    def _block(
        self, stage: int, index: int, norm: functools.partial
    ) -> SelectiveBottleneck:
        plain = super()._block(stage, index, norm)
        return SelectiveBottleneck(
            plain.planes, plain.stride, plain.project, self.sk_ratio, norm, self.dtype
        )


class Model(Segmenter):
    """SimCLRv2 with selective kernels, R152 1x sk1, or without, R101 1x sk0.

    Used for its features, `model.apply(..., method="features")`. The published files
    carry an ImageNet classifier, which nobody uses; applied at every position it is
    the head, so that a converted file can be written back complete. Images are scaled
    to 0..1 and not normalised further.

    Attributes:
        num_classes: of the classifier.
        stem_channels: channels of the stem.
        planes: inner channels of the four stages.
        blocks: blocks of the four stages; (3, 4, 23, 3) is R101.
        sk_ratio: of the selective kernels; 0 leaves them out, and with them the deep
            stem and the averaging shortcuts (sk0).
        bn_eps: added to every variance.
        bn_momentum: weight of a batch in the running statistics.
        dtype: of the computation; parameters and outputs are float32.
        axis_name: device axis that shares batch statistics.
        remat: stages computed again for the gradient.
        scan_blocks: compile equal neighbouring blocks once.
    """

    num_classes: int = 1000
    stem_channels: int = 64
    planes: tuple[int, ...] = (64, 128, 256, 512)
    blocks: tuple[int, ...] = (3, 8, 36, 3)
    sk_ratio: float = 0.0625
    bn_eps: float = 1e-5
    bn_momentum: float = 0.1
    dtype: str = "float32"
    axis_name: str | None = None
    remat: tuple[str, ...] = ()
    scan_blocks: bool = False

    stride: ClassVar[int] = 32
    normalization: ClassVar[str] = "unit"

    def setup(self):  # noqa: D102
        network = ResNet
        if self.sk_ratio:
            network = functools.partial(SelectiveResNet, sk_ratio=self.sk_ratio)
        self.backbone = network(
            stem_channels=self.stem_channels,
            planes=tuple(self.planes),
            blocks=tuple(self.blocks),
            strides=(1, 2, 2, 2),
            block_dilations=((1,),) * 4,
            deep_stem=self.sk_ratio > 0,
            frozen_bn=False,
            bn_eps=self.bn_eps,
            bn_momentum=self.bn_momentum,
            dtype=self.dtype,
            axis_name=self.axis_name,
            remat=tuple(self.remat),
            scan_blocks=self.scan_blocks,
        )
        self.head = nn.Dense(self.num_classes)

    def features(
        self,
        images: Float[Array, "b h w 3"],
        *,
        deterministic: bool = True,
        use_running_average: bool = True,
    ) -> Float[Array, "b H W d"]:
        """The fourth stage's output at stride 32, after its last ReLU."""
        return self.backbone(images, use_running_average=use_running_average)[-1]
