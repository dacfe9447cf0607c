"""DeepLabV2 on a dilated ResNet (ResNet-101 by default), output stride 8."""

from typing import Any, ClassVar

from flax import linen as nn
from jaxtyping import Array, Float

from sfda_jax.models.base import Segmenter
from sfda_jax.models.layers import Conv, at_least_float32
from sfda_jax.models.resnet import DILATED_AFTER_FIRST, ResNet

PUBLISHED: dict[str, dict[str, Any]] = {
    "stable_st": {},
    "crst": {
        "stride_first": True,
        "pool_ceil": True,
        "block_dilations": ((1,), (1,), (2,), (4,)),
        "bn_eps": 1e-5,
        "fixed_bn": True,
    },
    # Source-only training, IAST's first stage, trains the affine vectors as well:
    # frozen_bn is False there.
    "iast": {"bn_eps": 1e-5},
    "atp": {"deep_stem": True, "frozen_bn": False, "bn_eps": 1e-5},
}
"""Settings of the released networks: DT-ST's, SND's and Stable-ST's, CRST's, IAST's,
and the one of ATP, SePiCo and DAFormer."""


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
            )(features)
            for index, dilation in enumerate(self.dilations)
        ]
        branches = [at_least_float32(branch) for branch in branches]
        return sum(branches[1:], start=branches[0])


class Model(Segmenter):
    """DeepLabV2 (Chen et al., 2018) as released with DT-ST, SND and Stable-ST.

    BatchNorm is frozen with eps 0 by default: its four vectors are constants that no
    optimiser and no EMA touches. There is no dropout. `PUBLISHED` has the settings of
    other releases.

    Attributes:
        num_classes: C.
        stem_channels: channels of the stem.
        planes: inner channels of the four stages.
        blocks: blocks of the four stages.
        block_dilations: per stage, of its first blocks; the last one is the rest's.
        deep_stem: three 3x3 convolutions in place of one 7x7 (ResNet v1c).
        stride_first: a block's stride sits on its first convolution.
        pool_ceil: the pooling rounds sizes up.
        frozen_bn: keep BatchNorm's affine vectors out of the parameters.
        fixed_bn: always normalise with the stored statistics.
        bn_eps: added to every variance; 1e-5 where BatchNorm is trained.
        bn_momentum: weight of a batch in the running statistics.
        dilations: of the head's branches.
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
    block_dilations: tuple[tuple[int, ...], ...] = DILATED_AFTER_FIRST
    deep_stem: bool = False
    stride_first: bool = False
    pool_ceil: bool = False
    frozen_bn: bool = True
    fixed_bn: bool = False
    bn_eps: float = 0.0
    bn_momentum: float = 0.1
    dilations: tuple[int, ...] = (6, 12, 18, 24)
    dtype: str = "float32"
    axis_name: str | None = None
    remat: tuple[str, ...] = ()
    scan_blocks: bool = False

    stride: ClassVar[int] = 8

    def setup(self):  # noqa: D102
        self.backbone = ResNet(
            self.stem_channels,
            self.planes,
            self.blocks,
            block_dilations=self.block_dilations,
            deep_stem=self.deep_stem,
            stride_first=self.stride_first,
            pool_ceil=self.pool_ceil,
            frozen_bn=self.frozen_bn,
            fixed_bn=self.fixed_bn,
            bn_eps=self.bn_eps,
            bn_momentum=self.bn_momentum,
            dtype=self.dtype,
            axis_name=self.axis_name,
            remat=self.remat,
            scan_blocks=self.scan_blocks,
        )
        self.head = AsppHead(self.num_classes, self.dilations, self.dtype)

    def features(
        self,
        images: Float[Array, "b h w 3"],
        *,
        deterministic: bool = True,
        use_running_average: bool = True,
    ) -> Float[Array, "b H W d"]:
        """The fourth stage's output, what `classify` takes."""
        return self.backbone(images, use_running_average=use_running_average)[-1]
