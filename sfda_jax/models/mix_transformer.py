"""Mix Transformer (MiT), the hierarchical encoder of SegFormer (Xie et al., 2021)."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from sfda_jax.errors import ConfigError
from sfda_jax.models.depthwise import DepthwiseConv
from sfda_jax.models.layers import Conv, at_least_float32, kaiming_fan_out
from sfda_jax.models.repeated import check_stages, run_blocks
from sfda_jax.models.stochastic import drop_path
from sfda_jax.registry import check_choice
from sfda_jax.types import Key

STAGES = ("stage1", "stage2", "stage3", "stage4")
"""Names of the stages, what `remat` takes."""

_WIDE = (64, 128, 320, 512)

VARIANTS = {
    "b0": ((32, 64, 160, 256), (2, 2, 2, 2)),
    "b1": (_WIDE, (2, 2, 2, 2)),
    "b2": (_WIDE, (3, 4, 6, 3)),
    "b3": (_WIDE, (3, 4, 18, 3)),
    "b4": (_WIDE, (3, 8, 27, 3)),
    "b5": (_WIDE, (3, 6, 40, 3)),
}
"""Channels and blocks of the four stages of the published sizes."""

# The published code mixes two epsilons: PyTorch's default where it builds LayerNorm
# itself (patch embedding, reduced keys), 1e-6 where the network passes its own.
_OUTER_EPS = 1e-6
_INNER_EPS = 1e-5


class LayerNorm(nn.Module):
    """Normalisation of every token over its channels, two-pass and in float32.

    Attributes:
        eps: added to the variance.
        dtype: of the result.
    """

    eps: float
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Normalised, scaled and shifted tokens."""
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        x = at_least_float32(x)
        scale, bias = (v.astype(x.dtype)[None, None, None] for v in (scale, bias))
        centred = x - x.mean(-1, keepdims=True)
        variance = jnp.square(centred).mean(-1, keepdims=True)
        y = centred * lax.rsqrt(variance + self.eps) * scale + bias
        return y.astype(self.dtype)


def _dense(features: int, dtype: str, name: str) -> nn.Dense:
    # Published: truncated at ±2 in absolute value, 100 standard deviations away.
    init = nn.initializers.normal(0.02)
    return nn.Dense(features, dtype=jnp.dtype(dtype), kernel_init=init, name=name)


def attend(
    queries: Float[Array, "b n h d"],
    keys: Float[Array, "b m h d"],
    values: Float[Array, "b m h d"],
    *,
    chunk: int = 0,
) -> Float[Array, "b n h d"]:
    """`softmax(q k^T / sqrt(d)) v` per head, the softmax in float32.

    Args:
        queries: n tokens of h heads.
        keys: m tokens.
        values: m tokens.
        chunk: queries at a time, 0 for all. A chunk's `[h, chunk, m]` weights live
            only while it is worked on, and the gradient computes them again.
    """
    tokens = queries.shape[1]
    if not chunk or tokens <= chunk:
        return _attend(queries, keys, values)
    chunks = math.ceil(tokens / chunk)
    size = math.ceil(tokens / chunks)
    fill = chunks * size - tokens
    queries = jnp.pad(queries, ((0, 0), (0, fill), (0, 0), (0, 0)))
    batch, _, *head = queries.shape
    parts = queries.reshape(batch, chunks, size, *head).swapaxes(0, 1)
    step = jax.checkpoint(lambda part: _attend(part, keys, values))
    attended = lax.map(step, parts).swapaxes(0, 1)
    return attended.reshape(batch, chunks * size, *head)[:, :tokens]


def _attend(queries: Array, keys: Array, values: Array) -> Array:
    precise = jnp.float64 if queries.dtype == jnp.float64 else jnp.float32
    scores = jnp.einsum(
        "bnhd,bmhd->bhnm", queries, keys, preferred_element_type=precise
    )
    weights = jax.nn.softmax(scores * queries.shape[-1] ** -0.5, axis=-1)
    return jnp.einsum("bhnm,bmhd->bnhd", weights.astype(values.dtype), values)


class PatchEmbed(nn.Module):
    """Strided convolution over overlapping patches, then LayerNorm.

    Attributes:
        features: channels of a token.
        kernel_size: side of a patch, padded by half of it.
        stride: distance of neighbouring patches; n pixels become ceil(n / stride)
            where n and stride are even.
        dtype: of the computation.
    """

    features: int
    kernel_size: int
    stride: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b H W o"]:
        """Tokens on their grid."""
        x = Conv(
            self.features,
            self.kernel_size,
            stride=self.stride,
            padding=self.kernel_size // 2,
            use_bias=True,
            bias_init=nn.initializers.zeros,
            dtype=self.dtype,
            name="proj",
        )(x)
        return LayerNorm(_INNER_EPS, self.dtype, name="norm")(x)


class PatchMerge(nn.Module):
    """Convolution of windows that neither overlap nor are padded.

    Written as a matrix product, it has no convolution's gradient to get slow in a
    loop. Rows and columns that fill no window are left out.

    Attributes:
        size: side of a window.
        dtype: of the computation.
    """

    size: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b H W c"]:
        """One token per window, of as many channels."""
        batch, height, width, channels = x.shape
        size = self.size
        rows, columns = height // size, width // size
        if not rows or not columns:
            raise ConfigError(
                f"A feature map of {height}x{width} tokens is smaller than its "
                f"attention's {size}x{size} windows.",
                hint="Give the network images of at least 32x32 pixels.",
            )
        shape = (size, size, channels, channels)
        kernel = self.param("kernel", kaiming_fan_out, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        x = x[:, : rows * size, : columns * size].astype(self.dtype)
        x = x.reshape(batch, rows, size, columns, size, channels)
        y = jnp.einsum("brictj,ctjo->brio", x.swapaxes(2, 3), kernel.astype(self.dtype))
        return y + bias.astype(self.dtype)[None, None, None, :]


class Attention(nn.Module):
    """Self-attention whose keys and values come from a smaller grid.

    Attributes:
        num_heads: heads, contiguous in the channels.
        reduction: side of the windows that are merged into one key; 1 for none.
        chunk: queries worked on at a time, 0 for all.
        dtype: of the computation; the softmax is float32.
    """

    num_heads: int
    reduction: int
    chunk: int = 0
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Attended tokens, projected."""
        batch, height, width, channels = x.shape
        heads = (self.num_heads, channels // self.num_heads)
        queries = _dense(channels, self.dtype, "q")(x)
        if self.reduction > 1:
            x = PatchMerge(self.reduction, self.dtype, name="sr")(x)
            x = LayerNorm(_INNER_EPS, self.dtype, name="norm")(x)
        pairs = _dense(2 * channels, self.dtype, "kv")(x).reshape(batch, -1, 2, *heads)
        y = attend(
            queries.reshape(batch, -1, *heads),
            pairs[:, :, 0],
            pairs[:, :, 1],
            chunk=self.chunk,
        )
        y = y.reshape(batch, height, width, channels)
        return _dense(channels, self.dtype, "proj")(y)


class MixFfn(nn.Module):
    """Two linear layers with a depthwise convolution and GELU between them.

    Attributes:
        ratio: hidden channels per channel.
        dtype: of the computation.
    """

    ratio: int = 4
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Tokens of the same size."""
        channels = x.shape[-1]
        x = _dense(self.ratio * channels, self.dtype, "fc1")(x)
        # Published: fan-out over groups, which for one channel per group is 9.
        init = nn.initializers.normal(math.sqrt(2 / 9))
        conv = DepthwiseConv(
            use_bias=True, kernel_init=init, dtype=self.dtype, name="dwconv"
        )
        return _dense(channels, self.dtype, "fc2")(nn.gelu(conv(x), approximate=False))


class Block(nn.Module):
    """Attention and Mix-FFN, each normalised first and added to its input.

    Attributes:
        num_heads: of the attention.
        reduction: of the attention's keys.
        chunk: of the attention's queries.
        dtype: of the computation.
        axis_name: device axis that the batch is split over.
    """

    num_heads: int
    reduction: int
    chunk: int = 0
    dtype: str = "float32"
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        rate: Float[Array, ""] | None = None,
        key: Key | None = None,
    ) -> Float[Array, "b h w c"]:
        """Tokens after the block.

        Args:
            x: tokens.
            rate: probability that an image skips a branch.
            key: of these decisions; None skips nothing.
        """
        attention = Attention(
            self.num_heads, self.reduction, self.chunk, self.dtype, name="attn"
        )
        y = attention(LayerNorm(_OUTER_EPS, self.dtype, name="norm1")(x))
        x = x + self._drop(y, rate, key, 0)
        y = LayerNorm(_OUTER_EPS, self.dtype, name="norm2")(x)
        y = MixFfn(dtype=self.dtype, name="mlp")(y)
        return x + self._drop(y, rate, key, 1)

    def _drop(self, y: Array, rate: Array | None, key: Key | None, branch: int):
        if key is None:
            return y
        key = jax.random.fold_in(key, branch)
        return drop_path(y, rate, key, axis_name=self.axis_name)


class MixTransformer(nn.Module):
    """Four stages of tokens at strides 4, 8, 16 and 32.

    Attributes:
        variant: published size, `b0` … `b5`.
        embed_dims: channels of the stages; empty takes the variant's.
        depths: blocks of the stages; empty takes the variant's.
        num_heads: attention heads of the stages.
        reductions: side of the merged windows of the stages' keys.
        drop_path_rate: probability that an image skips the last block's branches; it
            grows linearly from 0 at the first block.
        attention_chunk: queries that attention works on at a time, 0 for all; for
            large images, see `attend`.
        dtype: of the computation; parameters and outputs are float32.
        axis_name: device axis that the batch is split over.
        remat: stages whose blocks are computed again for the gradient.
        scan_blocks: compile equal neighbouring blocks once.
    """

    variant: str = "b5"
    embed_dims: tuple[int, ...] = ()
    depths: tuple[int, ...] = ()
    num_heads: tuple[int, ...] = (1, 2, 5, 8)
    reductions: tuple[int, ...] = (8, 4, 2, 1)
    drop_path_rate: float = 0.1
    attention_chunk: int = 0
    dtype: str = "float32"
    axis_name: str | None = None
    remat: tuple[str, ...] = ()
    scan_blocks: bool = False

    @nn.compact
    def __call__(
        self, images: Float[Array, "b h w 3"], *, deterministic: bool = True
    ) -> tuple[Float[Array, "b _h _w _c"], ...]:
        """The four stages' normalised tokens, `[b, h/stride, w/stride, c]`.

        Args:
            images: normalised RGB.
            deterministic: no block is skipped; otherwise the stream `dropout` decides.
        """
        check_choice("model.variant", self.variant, VARIANTS)
        check_stages("model.remat", self.remat, STAGES)
        dims, depths = VARIANTS[self.variant]
        dims, depths = self.embed_dims or dims, self.depths or depths
        drops = self._drops(sum(depths), deterministic)
        outputs, x, first = [], images, 0
        for stage, (features, depth) in enumerate(zip(dims, depths, strict=True)):
            kernel_size, stride = (3, 2) if stage else (7, 4)
            embed = functools.partial(PatchEmbed, features, kernel_size, stride)
            block = functools.partial(
                Block,
                self.num_heads[stage],
                self.reductions[stage],
                self.attention_chunk,
                self.dtype,
                self.axis_name,
            )
            x = run_blocks(
                lambda block, x, drop=(): block(x, *drop),
                [block(name=f"{STAGES[stage]}_{index}") for index in range(depth)],
                embed(self.dtype, name=f"patch_embed{stage + 1}")(x),
                remat=STAGES[stage] in self.remat,
                scan=self.scan_blocks,
                per_block=drops[first : first + depth],
            )
            x = LayerNorm(_OUTER_EPS, self.dtype, name=f"norm{stage + 1}")(x)
            outputs.append(at_least_float32(x))
            first += depth
        return tuple(outputs)

    def _drops(self, blocks: int, deterministic: bool) -> list[tuple[Array, Key]]:
        """Rate and key of every block, empty where none is skipped."""
        if deterministic or not self.drop_path_rate:
            return []
        rates = np.linspace(0, self.drop_path_rate, blocks, dtype=np.float32)
        keys = jax.random.split(self.make_rng("dropout"), blocks)
        return [(jnp.asarray(rates[i]), keys[i]) for i in range(blocks)]
