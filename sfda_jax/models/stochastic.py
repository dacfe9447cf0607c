"""Random omission of whole branches and whole channels, image by image.

The decisions are drawn for the global batch and every device takes its images' share,
so a step is the same on one device and on many.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Bool, Float

from sfda_jax.ops.collectives import local_shard
from sfda_jax.types import Key


def _kept(
    key: Key, keep: Float[Array, ""], shape: tuple[int, ...], axis_name: str | None
) -> Bool[Array, "b *n"]:
    """Which of `[b, *n]` entries to keep, of this device's images."""
    devices = 1 if axis_name is None else lax.axis_size(axis_name)
    drawn = jax.random.bernoulli(key, keep, (devices * shape[0], *shape[1:]))
    return local_shard(drawn, axis_name)


def drop_path(
    x: Float[Array, "b h w c"],
    rate: Float[Array, ""],
    key: Key,
    *,
    axis_name: str | None = None,
) -> Float[Array, "b h w c"]:
    """A residual branch that some images skip (stochastic depth, Huang et al., 2016).

    Args:
        x: output of the branch.
        rate: probability 0..1 of leaving the branch out of an image; what is kept is
            divided by `1 - rate`.
        key: of the decisions, the same on all devices.
        axis_name: device axis that the batch is split over.
    """
    keep = 1 - rate
    kept = _kept(key, keep, (x.shape[0], 1, 1, 1), axis_name)
    return jnp.where(kept, x / keep.astype(x.dtype), jnp.zeros((), x.dtype))


class ChannelDropout(nn.Module):
    """Dropout of whole channels, drawn per image (PyTorch's `Dropout2d`).

    Attributes:
        rate: probability of setting a channel to zero; the others are divided by
            `1 - rate`.
        axis_name: device axis that the batch is split over.
    """

    rate: float
    axis_name: str | None = None

    def __call__(
        self, x: Float[Array, "b h w c"], *, deterministic: bool
    ) -> Float[Array, "b h w c"]:
        """The features with some channels zero; drawn from the stream `dropout`."""
        if deterministic or self.rate == 0:
            return x
        keep = jnp.float32(1 - self.rate)
        shape = (x.shape[0], 1, 1, x.shape[3])
        kept = _kept(self.make_rng("dropout"), keep, shape, self.axis_name)
        return jnp.where(kept, x / keep.astype(x.dtype), jnp.zeros((), x.dtype))
