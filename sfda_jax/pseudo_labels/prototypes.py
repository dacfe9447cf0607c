"""Labels by prototypes: the class whose mixture finds a pixel's features likeliest.

Section 5.4 of BiSMAP's specification. Features are enlarged, not scores, but never all
of them at once: a full-size map of 1024x2048 pixels and 256 features holds 2.1 GB.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Float32, PyTree, Shaped

from sfda_jax.errors import CheckpointError
from sfda_jax.models.forward import forward
from sfda_jax.ops.resize import neighbours
from sfda_jax.pseudo_labels.gaussian_mixtures import Mixtures, log_density
from sfda_jax.types import ModelState, SegOutput

_TILE_PIXELS = 1 << 15  # about 32 MB of 256 features at a time


def flip_mean(
    features: Float[Array, "b h w d"], mirrored: Float[Array, "b h w d"]
) -> Float[Array, "b h w d"]:
    """Mean of an image's features and of its mirror image's, turned back.

    Enlarging with aligned corners is symmetric: the mean may be taken before it.
    """
    return (features + mirrored[:, :, ::-1]) / 2


def evaluated(
    model: nn.Module,
    variables: PyTree,
    images: Shaped[Array, "b h w 3"],
    *,
    flip: bool = False,
) -> SegOutput:
    """What a network makes of images, with running statistics.

    Args:
        model: the network.
        variables: its own.
        images: uint8, or normalised floats.
        flip: its features are the mean of an image's and its mirror image's.
    """
    network = ModelState(variables["params"], variables.get("batch_stats", {}))
    output, _ = forward(model, network, images, statistics="running")
    if not flip:
        return output
    mirrored, _ = forward(model, network, images[:, :, ::-1], statistics="running")
    return output.replace(features=flip_mean(output.features, mirrored.features))


def check_dims(mixtures: Mixtures, model: nn.Module, network: ModelState) -> None:
    """Refuses mixtures of other features than the network's.

    Raises:
        CheckpointError: names both numbers of dimensions.
    """
    blank = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    features = jax.eval_shape(
        lambda variables, images: evaluated(model, variables, images).features,
        network.variables,
        blank,
    )
    have, want = mixtures.mu.shape[-1], features.shape[-1]
    if have != want:
        raise CheckpointError(
            f"The mixtures have {have} dimensions, the network has {want} features.",
            hint="Prototypes belong to one network: fit them with this one.",
        )


def pixel_log_densities(
    mixtures: Mixtures,
    features: Float[Array, "b h w d"],
    size: tuple[int, int],
    *,
    align_corners: bool = True,
) -> Float32[Array, "b H W c"]:
    """`ln p_c` of every pixel and class, features enlarged bilinearly a tile at a time.

    Args:
        mixtures: of the classes.
        features: at the network's stride.
        size: (height, width) of the labels.
        align_corners: of the enlargement.
    """
    batch, height, width, _ = features.shape
    rows = neighbours(height, size[0], align_corners)
    columns = neighbours(width, size[1], align_corners)
    tile = max(1, min(size[0], _TILE_PIXELS // (batch * size[1])))
    missing = -size[0] % tile
    tiles = [np.pad(x, (0, missing), "edge").reshape(-1, tile) for x in rows]
    features = features.astype(jnp.float32)

    def densities(part):
        low, high, share = part
        x = _between(features[:, low], features[:, high], share[None, :, None, None])
        left, right = x[:, :, columns.low], x[:, :, columns.high]
        x = _between(left, right, jnp.asarray(columns.share)[None, None, :, None])
        found = log_density(mixtures, x.reshape(-1, x.shape[-1]))
        return found.reshape(batch, tile, size[1], -1)

    found = jnp.moveaxis(jax.lax.map(densities, tuple(tiles)), 0, 1)
    return found.reshape(batch, size[0] + missing, size[1], -1)[:, : size[0]]


def _between(low: Array, high: Array, share: Array) -> Array:
    return low * (1 - share) + high * share
