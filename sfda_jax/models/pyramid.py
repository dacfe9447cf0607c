"""Segmentation networks of a Mix Transformer, a head on its four maps, a projection."""

import functools
from typing import ClassVar

from flax import linen as nn
from jaxtyping import Array, Float

from sfda_jax.models.base import Segmenter
from sfda_jax.models.mix_transformer import STAGES, MixTransformer
from sfda_jax.models.projection import ProjectionHead
from sfda_jax.models.pyramid_head import PyramidHead, batch_norm
from sfda_jax.models.repeated import check_stages

HEAD = "head"
"""What `remat` calls the head."""

Maps = tuple[Float[Array, "b _h _w _c"], ...]
"""The encoder's four maps, strides 4, 8, 16 and 32."""


class PyramidSegmenter(Segmenter):
    """Images → four maps → decoded features → logits, each step open to methods.

    `encode` gives the maps; `decode` makes of them the features that `classify` and
    `SegOutput.features` speak of: the classifier's input, after dropout. `project`
    makes the projections of contrastive losses from the same maps; they are no part of
    `SegOutput`. Losses on the encoder (feature distance) take `encode(...)[-1]`.

    A subclass implements `fusion`. With `projection_channels` the parameters have a
    third part beside `backbone` and `head`, `projection`.

    Attributes:
        num_classes: C.
        variant: published size of the encoder, `b0` … `b5`.
        embed_dims: channels of the encoder's stages; empty takes the variant's.
        depths: blocks of the encoder's stages; empty takes the variant's.
        num_heads: attention heads of the stages.
        reductions: side of the merged windows of the stages' keys.
        drop_path_rate: of the encoder's last block.
        dropout: share of the decoded channels dropped in training.
        projection_channels: of the projection head; 0 for none.
        bn_momentum: weight of a batch in the heads' running statistics.
        attention_chunk: queries that attention works on at a time, 0 for all.
        dtype: of the computation; parameters and outputs are float32.
        axis_name: device axis that shares batch statistics.
        remat: what is computed again for the gradient: blocks of the encoder's stages
            (`stage1` to `stage4`), the `head`.
        scan_blocks: compile equal neighbouring blocks once.
    """

    num_classes: int
    variant: str = "b5"
    embed_dims: tuple[int, ...] = ()
    depths: tuple[int, ...] = ()
    num_heads: tuple[int, ...] = (1, 2, 5, 8)
    reductions: tuple[int, ...] = (8, 4, 2, 1)
    drop_path_rate: float = 0.1
    dropout: float = 0.1
    projection_channels: int = 0
    bn_momentum: float = 0.1
    attention_chunk: int = 0
    dtype: str = "float32"
    axis_name: str | None = None
    remat: tuple[str, ...] = ()
    scan_blocks: bool = False

    stride: ClassVar[int] = 4
    align_corners: ClassVar[bool] = False

    def setup(self):  # noqa: D102
        check_stages("model.remat", self.remat, (*STAGES, HEAD))
        self.backbone = MixTransformer(
            self.variant,
            self.embed_dims,
            self.depths,
            self.num_heads,
            self.reductions,
            self.drop_path_rate,
            self.attention_chunk,
            self.dtype,
            self.axis_name,
            tuple(stage for stage in self.remat if stage != HEAD),
            self.scan_blocks,
        )
        norm = batch_norm(self.dtype, self.axis_name, self.bn_momentum)
        self.head = PyramidHead(
            self.num_classes,
            self.fusion(norm),
            self.dropout,
            dtype=self.dtype,
            axis_name=self.axis_name,
        )
        if self.projection_channels:
            self.projection = ProjectionHead(
                self.projection_channels, self.bn_momentum, self.dtype, self.axis_name
            )

    def fusion(self, norm: functools.partial) -> functools.partial:
        """Constructor of the head's module that makes one map of the encoder's four.

        Args:
            norm: constructor of its BatchNorm.
        """
        raise NotImplementedError

    def encode(
        self,
        images: Float[Array, "b h w 3"],
        *,
        deterministic: bool = True,
        use_running_average: bool = True,
    ) -> Maps:
        """The encoder's maps, what `decode` and `project` take.

        Args:
            images: normalised RGB.
            deterministic: no block is skipped.
            use_running_average: of no effect, the encoder has no BatchNorm.
        """
        return self.backbone(images, deterministic=deterministic)

    def decode(
        self,
        maps: Maps,
        *,
        deterministic: bool = True,
        use_running_average: bool = True,
    ) -> Float[Array, "b h w d"]:
        """The classifier's input, at stride 4.

        Args:
            maps: of `encode`.
            deterministic: no dropout.
            use_running_average: normalise with the stored BatchNorm statistics.
        """

        def run(head, maps):
            return head.decode(
                maps,
                deterministic=deterministic,
                use_running_average=use_running_average,
            )

        if HEAD in self.remat and not self.is_initializing():
            run = nn.remat(run)
        return run(self.head, maps)

    def features(
        self,
        images: Float[Array, "b h w 3"],
        *,
        deterministic: bool = True,
        use_running_average: bool = True,
    ) -> Float[Array, "b H W d"]:
        """Decoded features, what `classify` takes."""
        mode = {
            "deterministic": deterministic,
            "use_running_average": use_running_average,
        }
        maps = self.encode(images, **mode)
        if self.is_initializing() and self.projection_channels:
            self.project(maps)
        return self.decode(maps, **mode)

    def project(
        self, maps: Maps, *, use_running_average: bool = True
    ) -> Float[Array, "b h w p"]:
        """Projections of unit length for contrastive losses, at stride 4.

        Args:
            maps: of `encode`.
            use_running_average: normalise with the stored BatchNorm statistics.
        """
        return self.projection(maps, use_running_average=use_running_average)
