"""DeepLabV2 on a dilated VGG-16, output stride 8."""

from typing import ClassVar

from flax import linen as nn
from jaxtyping import Array, Float

from sfda_jax.models.base import Segmenter
from sfda_jax.models.deeplab_v2 import AsppHead
from sfda_jax.models.layers import Conv, at_least_float32


class Vgg(nn.Module):
    """VGG-16 without its last two poolings, fc6 and fc7 as dilated convolutions.

    Attributes:
        planes: channels of the five groups of convolutions.
        blocks: convolutions per group; the first three groups end in a pooling.
        fc_planes: channels of fc6 and fc7.
        dtype: of the computation.
    """

    planes: tuple[int, ...] = (64, 128, 256, 512, 512)
    blocks: tuple[int, ...] = (2, 2, 3, 3, 3)
    fc_planes: int = 1024
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, images: Float[Array, "b h w 3"], *, use_running_average: bool = True
    ) -> Float[Array, "b H W d"]:
        """Output of fc7, at stride 8; there are no statistics to choose."""

        def conv(x, planes, dilation, name):
            layer = Conv(
                planes,
                3,
                padding=dilation,
                dilation=dilation,
                use_bias=True,
                dtype=self.dtype,
                name=name,
            )
            return nn.relu(layer(x))

        x = images
        for group, planes in enumerate(self.planes):
            for block in range(self.blocks[group]):
                dilation = 2 if group == 4 else 1
                x = conv(x, planes, dilation, f"conv{group + 1}_{block}")
            if group < 3:
                x = nn.max_pool(x, (2, 2), (2, 2))
        x = conv(x, self.fc_planes, 4, "fc6")
        return at_least_float32(conv(x, self.fc_planes, 4, "fc7"))


class Model(Segmenter):
    """DeepLabV2-VGG16 as released with DT-ST for GTA5 → BDD100K; no BatchNorm.

    Attributes:
        num_classes: C.
        planes: channels of the five groups of convolutions.
        blocks: convolutions per group.
        fc_planes: channels of fc6 and fc7, what the head takes.
        dilations: of the head's branches.
        dtype: of the computation; parameters and outputs are float32.
        axis_name: accepted for the common interface; there are no batch statistics.
    """

    num_classes: int
    planes: tuple[int, ...] = (64, 128, 256, 512, 512)
    blocks: tuple[int, ...] = (2, 2, 3, 3, 3)
    fc_planes: int = 1024
    dilations: tuple[int, ...] = (6, 12, 18, 24)
    dtype: str = "float32"
    axis_name: str | None = None

    stride: ClassVar[int] = 8

    def setup(self):  # noqa: D102
        self.backbone = Vgg(
            tuple(self.planes), tuple(self.blocks), self.fc_planes, self.dtype
        )
        self.head = AsppHead(self.num_classes, tuple(self.dilations), self.dtype)
