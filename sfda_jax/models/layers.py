"""Convolution and BatchNorm as the published networks define them, NHWC and HWIO."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from sfda_jax.ops.collectives import pmean

_LAYOUT = ("NHWC", "HWIO", "NHWC")

# A channel that is constant over the batch (all its inputs dead) has variance 0; with
# eps 0 it would turn the features into NaN while statistics are re-estimated.
_MIN_BATCH_VARIANCE = 1e-10

kaiming_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
"""Kaiming normal over the fan-out: the initialiser of ReLU backbones."""

kaiming_fan_in = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
"""Kaiming normal over the fan-in."""


def at_least_float32(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """`x` in float32: what leaves a network, and what is normalised.

    A network computed in float64, to compare it with another one, stays in float64.
    """
    return x if x.dtype == jnp.float64 else x.astype(jnp.float32)


def max_pool3x3(
    x: Float[Array, "b h w c"], *, ceil_mode: bool = False
) -> Float[Array, "b H W c"]:
    """3x3 maxima at stride 2, padded by 1 with minus infinity.

    Args:
        x: features.
        ceil_mode: an even size n becomes n / 2 + 1 instead of n / 2.
    """
    pad = (1, 2 if ceil_mode else 1)
    return nn.max_pool(x, (3, 3), (2, 2), (pad, pad))


def uniform_fan_in(fan_in: int) -> Callable[..., Array]:
    """Initialiser `U(-1/sqrt(fan_in), 1/sqrt(fan_in))`: PyTorch's for biases."""
    bound = 1.0 / math.sqrt(fan_in)

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv3x3(
    x: Float[Array, "b h w i"], kernel: Float[Array, "3 3 i o"], dilation: int
) -> Float[Array, "b h w o"]:
    """Stride-1 3x3 convolution of unchanged size, with its gradient written out.

    On CPU, XLA brings the gradient of a plain convolution to its fast form only at
    the top level of a program; inside `scan` or `cond` it is 30 times slower. Here
    both gradients are convolutions in canonical layout, bit for bit the same values.

    Args:
        x: features, `[b, h, w, i]`.
        kernel: `[3, 3, i, o]`.
        dilation: spacing of the taps and width of the zero padding.
    """
    pad = (dilation, dilation)
    return lax.conv_general_dilated(
        x, kernel, (1, 1), (pad, pad), rhs_dilation=pad, dimension_numbers=_LAYOUT
    )


def _conv3x3_forward(x, kernel, dilation):
    return conv3x3(x, kernel, dilation), (x, kernel)


def _conv3x3_backward(dilation, residuals, gradient):
    x, kernel = residuals
    pad = (dilation, dilation)
    flipped = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    x_gradient = conv3x3(gradient, flipped, dilation)
    kernel_gradient = lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0),
        gradient.transpose(1, 2, 0, 3),
        pad,
        (pad, pad),
        dimension_numbers=_LAYOUT,
    )
    return x_gradient, kernel_gradient.transpose(1, 2, 0, 3)


conv3x3.defvjp(_conv3x3_forward, _conv3x3_backward)


class Conv(nn.Module):
    """2D convolution with explicit zero padding.

    Attributes:
        features: output channels.
        kernel_size: side of the square kernel.
        stride: step in both directions.
        padding: zeros added on every side; n pixels become
            `floor((n + 2 * padding - dilation * (kernel_size - 1) - 1) / stride) + 1`.
        dilation: spacing of the taps.
        use_bias: add a bias per channel.
        kernel_init: initialiser of the kernel `[k, k, in, out]`.
        bias_init: initialiser of the bias; None draws as PyTorch does by default.
        dtype: of the computation; parameters stay float32.
        explicit_vjp: write out the gradient of stride-1 3x3 convolutions; None does so
            on CPU only, where it is known to be faster.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    use_bias: bool = False
    kernel_init: Callable[..., Array] = kaiming_fan_out
    bias_init: Callable[..., Array] | None = None
    dtype: str = "float32"
    explicit_vjp: bool | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b H W o"]:
        """Convolved features in `dtype`."""
        side, inputs = self.kernel_size, x.shape[-1]
        shape = (side, side, inputs, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        y = self._convolve(x.astype(self.dtype), kernel.astype(self.dtype))
        if self.use_bias:
            init = self.bias_init or uniform_fan_in(inputs * side * side)
            bias = self.param("bias", init, (self.features,), jnp.float32)
            y = y + bias.astype(self.dtype)[None, None, None, :]
        return y

    def _convolve(self, x: Array, kernel: Array) -> Array:
        if self.kernel_size == 1 and self.padding == 0:
            # As a matrix product the weight gradient is 2 to 8 times faster on CPU.
            x = x[:, :: self.stride, :: self.stride]
            return jnp.einsum("bhwi,io->bhwo", x, kernel[0, 0])
        same_size = self.stride == 1 and self.padding == self.dilation
        explicit = self.explicit_vjp
        if explicit is None:
            explicit = jax.default_backend() == "cpu"
        if explicit and self.kernel_size == 3 and same_size:
            return conv3x3(x, kernel, self.dilation)
        pad = (self.padding, self.padding)
        return lax.conv_general_dilated(
            x,
            kernel,
            (self.stride, self.stride),
            (pad, pad),
            rhs_dilation=(self.dilation, self.dilation),
            dimension_numbers=_LAYOUT,
        )


class BatchNorm(nn.Module):
    """Batch normalisation over batch, height and width, in float32.

    Differs from Flax's: two-pass variance, running variance multiplied by n/(n-1)
    with n the global count, and PyTorch's convention for `momentum`.

    Attributes:
        frozen: keep scale and bias in `batch_stats` beside mean and variance, where
            neither optimiser nor EMA sees them (Stable-ST's FrozenBatchNorm).
        fixed: always normalise with the stored statistics and leave them as they are,
            whatever the caller asks for.
        eps: added to the variance.
        momentum: weight of the batch: `new = (1 - momentum) * old + momentum * batch`.
        axis_name: device axis that shares one set of batch statistics.
        dtype: of the result.
        frozen_scale: a frozen scale until a checkpoint is loaded.
    """

    frozen: bool = False
    fixed: bool = False
    eps: float = 1e-5
    momentum: float = 0.1
    axis_name: str | None = None
    dtype: str = "float32"
    frozen_scale: float = 1.0

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, use_running_average: bool
    ) -> Float[Array, "b h w c"]:
        """Normalised features.

        Args:
            x: features.
            use_running_average: True normalises with the stored statistics and
                changes nothing; False normalises with the batch's own and, where
                `batch_stats` is mutable, updates the stored ones (frozen or not).
        """
        shape = (x.shape[-1],)
        scale, bias = self._affine(shape)
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        x = at_least_float32(x)
        scale, bias = scale.astype(x.dtype), bias.astype(x.dtype)
        if use_running_average or self.fixed:
            factor = scale * lax.rsqrt(var.value.astype(x.dtype) + self.eps)
            shift = bias - mean.value.astype(x.dtype) * factor
            return (x * _row(factor) + _row(shift)).astype(self.dtype)
        axis_name = None if self.is_initializing() else self.axis_name
        batch_mean = pmean(x.mean((0, 1, 2)), axis_name)
        centred = x - _row(batch_mean)
        batch_var = pmean(jnp.square(centred).mean((0, 1, 2)), axis_name)
        if self.eps == 0:
            batch_var = jnp.maximum(batch_var, _MIN_BATCH_VARIANCE)
        if self.is_mutable_collection("batch_stats") and not self.is_initializing():
            devices = 1 if axis_name is None else lax.axis_size(axis_name)
            count = devices * x.size // x.shape[-1]
            unbiased = batch_var * (count / max(count - 1, 1))
            mean.value = self._moved(mean.value, batch_mean)
            var.value = self._moved(var.value, unbiased)
        factor = scale * lax.rsqrt(batch_var + self.eps)
        return (centred * _row(factor) + _row(bias)).astype(self.dtype)

    def _affine(self, shape: tuple[int]) -> tuple[Array, Array]:
        if self.frozen:
            start = (shape, self.frozen_scale, jnp.float32)
            scale = self.variable("batch_stats", "scale", jnp.full, *start)
            bias = self.variable("batch_stats", "bias", jnp.zeros, shape, jnp.float32)
            return scale.value, bias.value
        ones, zeros = nn.initializers.ones, nn.initializers.zeros
        scale = self.param("scale", ones, shape, jnp.float32)
        return scale, self.param("bias", zeros, shape, jnp.float32)

    def _moved(self, old: Array, batch: Array) -> Array:
        # Statistics carry no gradient: they are an output, not part of the loss.
        batch = lax.stop_gradient(batch).astype(old.dtype)
        return (1 - self.momentum) * old + self.momentum * batch


def _row(vector: Array) -> Array:
    return vector[None, None, None, :]
