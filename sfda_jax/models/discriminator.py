"""Patch discriminator on class probabilities (IAST's adversarial warm-up)."""

from flax import linen as nn
from jaxtyping import Array, Float

from sfda_jax.models.layers import Conv, at_least_float32

_SLOPE = 0.2
_torch_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class Model(nn.Module):
    """Five convolutions of stride 2; the first one is 3x3, the others are 4x4.

    There is no normalisation, and no sigmoid: the losses are least squares (IAST,
    section 3.2). Source probabilities are to give 0, target probabilities 1.

    Attributes:
        num_classes: C, channels of the input.
        width: channels after the first convolution; doubled by the next three.
        dtype: of the computation; parameters and output are float32.
    """

    num_classes: int
    width: int = 64
    dtype: str = "float32"

    @property
    def input_channels(self) -> int:
        """Channels of the input, for who initialises the network."""
        return self.num_classes

    @nn.compact
    def __call__(
        self, probs: Float[Array, "b h w {self.num_classes}"]
    ) -> Float[Array, "b H W 1"]:
        """A score per patch.

        Args:
            probs: softmax of the logits, upsampled to the size of the image.
        """

        def conv(x, features, kernel_size, name):
            layer = Conv(
                features,
                kernel_size,
                stride=2,
                padding=1,
                use_bias=True,
                kernel_init=_torch_uniform,
                dtype=self.dtype,
                name=name,
            )
            return layer(x)

        x = probs
        for index in range(4):
            features = self.width * 2**index
            x = conv(x, features, 4 if index else 3, f"conv{index + 1}")
            x = nn.leaky_relu(x, _SLOPE)
        return at_least_float32(conv(x, 1, 4, "classifier"))
