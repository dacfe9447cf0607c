"""UPerNet (Xiao et al., 2018) on a Mix Transformer, as in DAFormer's comparison."""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from sfda_jax.models.pyramid import PyramidSegmenter
from sfda_jax.models.pyramid_head import ConvNorm, enlarge_all
from sfda_jax.ops.resize import resize_bilinear


def _bins(size: int, count: int) -> np.ndarray:
    """Weights of `count` means over a line, `[count, size]`, as PyTorch pools."""
    weights = np.zeros((count, size), np.float32)
    for index in range(count):
        start = index * size // count
        stop = math.ceil((index + 1) * size / count)
        weights[index, start:stop] = 1 / (stop - start)
    return weights


def pool_to(x: Float[Array, "b h w c"], size: int) -> Float[Array, "b {size} {size} c"]:
    """Means over a grid of `size` x `size` cells, which may overlap by a pixel."""
    rows, columns = _bins(x.shape[1], size), _bins(x.shape[2], size)
    pooled = jnp.einsum(
        "Hh,bhwc,Ww->bHWc",
        rows.astype(x.dtype),
        x,
        columns.astype(x.dtype),
        precision=jax.lax.Precision.HIGHEST,
    )
    return pooled


class PyramidFusion(nn.Module):
    """Context of the last map, passed down to the finer ones, all concatenated.

    Attributes:
        channels: of every level and of the output.
        norm: constructor of BatchNorm, settings bound.
        pool_sizes: grids over which the last map is averaged.
        dtype: of the computation.
    """

    channels: int
    norm: functools.partial
    pool_sizes: tuple[int, ...] = (1, 2, 3, 6)
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self,
        maps: Sequence[Float[Array, "b _h _w _c"]],
        *,
        use_running_average: bool,
    ) -> Float[Array, "b h w d"]:
        """Fused features at the size of the first map."""

        def layer(name, x, kernel_size=1):
            block = ConvNorm(
                self.channels, self.norm, kernel_size, dtype=self.dtype, name=name
            )
            return block(x, use_running_average=use_running_average)

        *finer, last = (x.astype(self.dtype) for x in maps)
        context = [last]
        for index, size in enumerate(self.pool_sizes):
            context.append(layer(f"pool{index}", pool_to(last, size)))
        context = jnp.concatenate(enlarge_all(context, self.dtype), axis=-1)
        levels = [layer(f"lateral{index}", x) for index, x in enumerate(finer)]
        levels.append(layer("context", context, 3))
        for index in range(len(levels) - 1, 0, -1):
            size = levels[index - 1].shape[1:3]
            above = resize_bilinear(levels[index], size, align_corners=False)
            levels[index - 1] = levels[index - 1] + above
        for index in range(len(finer)):
            levels[index] = layer(f"smooth{index}", levels[index], 3)
        fused = jnp.concatenate(enlarge_all(levels, self.dtype), axis=-1)
        return layer("bottleneck", fused, 3)


class Model(PyramidSegmenter):
    """UPerNet on a Mix Transformer.

    Beside the attributes of `PyramidSegmenter`:

    Attributes:
        channels: of every level and of the fused features.
        pool_sizes: grids over which the last map is averaged.
    """

    channels: int = 512
    pool_sizes: tuple[int, ...] = (1, 2, 3, 6)

    def fusion(self, norm: functools.partial) -> functools.partial:
        """UPerNet's fusion of the levels."""
        return functools.partial(
            PyramidFusion, self.channels, norm, self.pool_sizes, self.dtype
        )
