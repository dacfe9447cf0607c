"""What every segmentation network offers: features, a head on them, both in one."""

from typing import ClassVar

from flax import linen as nn
from jaxtyping import Array, Float

from sfda_jax.types import SegOutput


class Segmenter(nn.Module):
    """A `backbone` and a `head`, set up by the subclass under these names.

    The optimiser tells the two apart by name, and `classify` runs the head alone.
    `normalization` names what is done to stored images, see `ops.color.SCHEMES`;
    `align_corners` is how its publication enlarges the logits.
    """

    normalization: ClassVar[str] = "imagenet"
    align_corners: ClassVar[bool] = True

    def __call__(
        self,
        images: Float[Array, "b h w 3"],
        *,
        deterministic: bool = True,
        use_running_average: bool = True,
    ) -> SegOutput:
        """Logits and features, at the network's stride.

        Args:
            images: normalised RGB (`models.forward.network_input`).
            deterministic: no dropout.
            use_running_average: normalise with the stored BatchNorm statistics.
        """
        features = self.features(
            images,
            deterministic=deterministic,
            use_running_average=use_running_average,
        )
        return SegOutput(logits=self.classify(features), features=features)

    def features(
        self,
        images: Float[Array, "b h w 3"],
        *,
        deterministic: bool = True,
        use_running_average: bool = True,
    ) -> Float[Array, "b H W d"]:
        """The backbone's output, what `classify` takes."""
        return self.backbone(images, use_running_average=use_running_average)

    def classify(self, features: Float[Array, "b h w d"]) -> Float[Array, "b h w c"]:
        """Logits of given features."""
        return self.head(features)
