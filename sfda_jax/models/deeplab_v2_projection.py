"""DeepLabV2 on a ResNet v1c with a projection: a student of ATP and SePiCo."""

from typing import ClassVar

from jaxtyping import Array, Float

from sfda_jax.models import deeplab_v2
from sfda_jax.models.projection import ProjectionHead
from sfda_jax.models.pyramid import Maps


class Model(deeplab_v2.Model):
    """DeepLabV2 as ATP trains it, with a third part beside backbone and head.

    `encode`, `decode` and `project` are those of `pyramid.PyramidSegmenter`: the maps
    are the outputs of the ResNet's four stages, of which head and projection take the
    last. Beside the attributes of `deeplab_v2.Model`, with ATP's settings as defaults:

    Attributes:
        projection_channels: of the projection head.
    """

    deep_stem: bool = True
    frozen_bn: bool = False
    bn_eps: float = 1e-5
    projection_channels: int = 512

    align_corners: ClassVar[bool] = False

    def setup(self):  # noqa: D102
        super().setup()
        self.projection = ProjectionHead(
            self.projection_channels, self.bn_momentum, self.dtype, self.axis_name
        )

    def encode(
        self,
        images: Float[Array, "b h w 3"],
        *,
        deterministic: bool = True,
        use_running_average: bool = True,
    ) -> Maps:
        """The four stages' maps, strides 4, 8, 8 and 8.

        Args:
            images: normalised RGB.
            deterministic: of no effect, there is no dropout.
            use_running_average: normalise with the stored BatchNorm statistics.
        """
        return self.backbone(images, use_running_average=use_running_average)

    def decode(
        self,
        maps: Maps,
        *,
        deterministic: bool = True,
        use_running_average: bool = True,
    ) -> Float[Array, "b h w d"]:
        """The classifier's input: the last map as it is."""
        return maps[-1]

    def features(
        self,
        images: Float[Array, "b h w 3"],
        *,
        deterministic: bool = True,
        use_running_average: bool = True,
    ) -> Float[Array, "b H W d"]:
        """The fourth stage's output, what `classify` takes."""
        maps = self.encode(images, use_running_average=use_running_average)
        if self.is_initializing():
            self.project(maps)
        return self.decode(maps)

    def project(
        self, maps: Maps, *, use_running_average: bool = True
    ) -> Float[Array, "b h w p"]:
        """Projections of unit length for contrastive losses, at stride 8.

        Args:
            maps: of `encode`.
            use_running_average: normalise with the stored BatchNorm statistics.
        """
        return self.projection(maps[-1:], use_running_average=use_running_average)
