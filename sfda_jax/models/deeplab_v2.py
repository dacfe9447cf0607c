"""DeepLabV2 on a dilated ResNet (ResNet-101 by default), output stride 8."""

from typing import ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from sfda_jax.models.base import Segmenter
from sfda_jax.models.layers import Conv
from sfda_jax.models.resnet import ResNet


class AsppHead(nn.Module):
    """Sum of parallel dilated 3x3 convolutions to class logits (DeepLabV2's ASPP).

    Attributes:
        num_classes: C.
        dilations: one branch each.
        dtype: of the computation; logits are float32.
    """

    num_classes: int
    dilations: tuple[int, ...] = (6, 12, 18, 24)
    dtype: str = "float32"

    @nn.compact
    def __call__(self, features: Float[Array, "b h w d"]) -> Float[Array, "b h w c"]:
        """Logits, at the size of the features."""
        branches = [
            Conv(
                self.num_classes,
                3,
                padding=dilation,
                dilation=dilation,
                use_bias=True,
                kernel_init=nn.initializers.normal(0.01),
                dtype=self.dtype,
                name=f"branch{index}",
            )(features).astype(jnp.float32)
            for index, dilation in enumerate(self.dilations)
        ]
        return sum(branches[1:], start=branches[0])


class Model(Segmenter):
    """DeepLabV2 (Chen et al., 2018) as released with DT-ST, SND and Stable-ST.

    BatchNorm is frozen with eps 0 by default: its four vectors are constants that no
    optimiser and no EMA touches. There is no dropout.

    Attributes:
        num_classes: C.
        stem_channels: channels of the stem.
        planes: inner channels of the four stages.
        blocks: blocks of the four stages.
        frozen_bn: keep BatchNorm's affine vectors out of the parameters.
        bn_eps: added to every variance; 1e-5 where BatchNorm is trained.
        bn_momentum: weight of a batch in the running statistics.
        dilations: of the head's branches.
        dtype: of the computation; parameters and outputs are float32.
        axis_name: device axis that shares batch statistics.
    """

    num_classes: int
    stem_channels: int = 64
    planes: tuple[int, ...] = (64, 128, 256, 512)
    blocks: tuple[int, ...] = (3, 4, 23, 3)
    frozen_bn: bool = True
    bn_eps: float = 0.0
    bn_momentum: float = 0.1
    dilations: tuple[int, ...] = (6, 12, 18, 24)
    dtype: str = "float32"
    axis_name: str | None = None

    stride: ClassVar[int] = 8

    def setup(self):  # noqa: D102
        self.backbone = ResNet(
            self.stem_channels,
            tuple(self.planes),
            tuple(self.blocks),
            self.frozen_bn,
            self.bn_eps,
            self.bn_momentum,
            self.dtype,
            self.axis_name,
        )
        self.head = AsppHead(self.num_classes, tuple(self.dilations), self.dtype)

    def features(
        self,
        images: Float[Array, "b h w 3"],
        *,
        deterministic: bool = True,
        use_running_average: bool = True,
    ) -> Float[Array, "b H W d"]:
        """The fourth stage's output, what `classify` takes."""
        return self.backbone(images, use_running_average=use_running_average)[1]
