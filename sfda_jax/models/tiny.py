"""A small residual DeepLab for laptops and tests, output stride 4.

Not a published network: it exists so that every method can be trained from scratch,
source model included, in minutes on two CPU cores.
"""

import functools
from typing import ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from sfda_jax.models.base import Segmenter
from sfda_jax.models.deeplab_v2 import AsppHead
from sfda_jax.models.layers import BatchNorm, Conv
from sfda_jax.ops.resize import resize_bilinear


class Backbone(nn.Module):
    """Strided stem, dilated residual blocks, global context, one skip connection.

    Attributes:
        width: channels at stride 4; half as many before, twice as many after.
        block_dilations: one residual block at stride 8 each.
        norm: constructor of BatchNorm, settings bound.
        dtype: of the computation.
    """

    width: int
    block_dilations: tuple[int, ...]
    norm: functools.partial
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, images: Float[Array, "b h w 3"], *, use_running_average: bool
    ) -> Float[Array, "b H W d"]:
        """Fused features at stride 4, twice `width` channels."""
        conv = functools.partial(Conv, padding=1, dtype=self.dtype)
        point = functools.partial(Conv, kernel_size=1, dtype=self.dtype)
        narrow, width, wide = self.width // 2, self.width, 2 * self.width

        def norm(name, x):
            return self.norm(name=name)(x, use_running_average=use_running_average)

        def block(name, x, dilation):
            layer = functools.partial(
                conv, x.shape[-1], padding=dilation, dilation=dilation
            )
            y = nn.relu(norm(f"{name}_bn1", layer(name=f"{name}_conv1")(x)))
            return nn.relu(x + norm(f"{name}_bn2", layer(name=f"{name}_conv2")(y)))

        x = nn.relu(norm("bn1", conv(narrow, stride=2, name="conv1")(images)))
        x = nn.relu(norm("bn2", conv(width, stride=2, name="conv2")(x)))
        fine = block("layer1_0", x, 1)
        x = nn.relu(norm("bn3", conv(wide, stride=2, name="conv3")(fine)))
        for index, dilation in enumerate(self.block_dilations):
            x = block(f"layer2_{index}", x, dilation)
        scene = x.mean((1, 2), keepdims=True)
        scene = point(wide, use_bias=True, name="scene_conv")(scene)
        x = point(wide, name="coarse_conv")(x) + jnp.broadcast_to(scene, x.shape)
        x = resize_bilinear(x, fine.shape[1:3], align_corners=True)
        x = x + point(wide, name="fine_conv")(fine)
        return nn.relu(norm("bn4", x)).astype(jnp.float32)


class Model(Segmenter):
    """The small network: 0.3 M parameters at the default width.

    Attributes:
        num_classes: C.
        width: channels at stride 4.
        block_dilations: one residual block at stride 8 each.
        frozen_bn: keep BatchNorm's affine vectors out of the parameters.
        bn_eps: added to every variance.
        bn_momentum: weight of a batch in the running statistics.
        dilations: of the head's branches.
        dtype: of the computation; parameters and outputs are float32.
        axis_name: device axis that shares batch statistics.
    """

    num_classes: int
    width: int = 32
    block_dilations: tuple[int, ...] = (1, 2, 4)
    frozen_bn: bool = False
    bn_eps: float = 1e-5
    bn_momentum: float = 0.1
    dilations: tuple[int, ...] = (1, 4)
    dtype: str = "float32"
    axis_name: str | None = None

    stride: ClassVar[int] = 4

    def setup(self):  # noqa: D102
        norm = functools.partial(
            BatchNorm,
            frozen=self.frozen_bn,
            eps=self.bn_eps,
            momentum=self.bn_momentum,
            axis_name=self.axis_name,
            dtype=self.dtype,
        )
        self.backbone = Backbone(
            self.width, tuple(self.block_dilations), norm, self.dtype
        )
        self.head = AsppHead(self.num_classes, tuple(self.dilations), self.dtype)
