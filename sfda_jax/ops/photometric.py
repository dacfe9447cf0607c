"""Colour jitter, grey and blur inside the compiled step, from given decisions.

The augmentation of the DACS family (DAFormer, SePiCo, ATP): RGB in [0, 1], brightness
added, contrast about black, saturation and hue through HSV. It is not the published
augmentation of DT-ST, which needs 8-bit arithmetic and runs on the host
(`data.strong_augment`).
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int, PyTree

from sfda_jax.ops.color import from_unit, to_unit
from sfda_jax.types import Key

_TURN = 2 * math.pi
_EPSILON = 1e-6  # in the saturation of black
_GREY = (0.299, 0.587, 0.114)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PhotometricSettings:
    """How strongly images are changed; defaults of DAFormer, SePiCo and ATP.

    Attributes:
        jitter: strengths of brightness, contrast and saturation (factors 1 - s to
            1 + s) and hue (-s to s).
        jitter_probability: of colour jitter.
        gray_probability: of losing all colour instead of the jitter.
        blur_probability: of a Gaussian blur.
        blur_sigma: range of its standard deviation.
    """

    jitter: tuple[float, float, float, float] = (0.2, 0.2, 0.2, 0.2)
    jitter_probability: float = 0.8
    gray_probability: float = 0.0
    blur_probability: float = 0.5
    blur_sigma: tuple[float, float] = (0.15, 1.15)


@struct.dataclass
class PhotometricDecisions:
    """Everything random about a batch of photometric augmentations.

    Attributes:
        jittered: bool[B].
        order: int32[B,4], a permutation of the four colour operations.
        factors: float32[B,4], brightness, contrast, saturation, hue.
        gray: bool[B]; a grey image is not jittered.
        blurred: bool[B].
        sigma: float32[B], standard deviation of the blur.
    """

    jittered: PyTree
    order: PyTree
    factors: PyTree
    gray: PyTree
    blurred: PyTree
    sigma: PyTree


def draw_gates(key: Key, settings: PhotometricSettings) -> tuple[Array, Array]:
    """`(jittered, blurred)`, bool[]: whether a whole iteration is jittered, blurred."""
    jitter, blur = jax.random.uniform(key, (2,))
    return jitter < settings.jitter_probability, blur < settings.blur_probability


def draw_call(
    key: Key,
    places: Int[Array, " b"],
    settings: PhotometricSettings,
    *,
    gates: tuple[Array, Array] | None = None,
) -> PhotometricDecisions:
    """Decisions of one published call: order and blur width for the batch as a whole.

    Only the four factors are each image's own. The decisions do not depend on how the
    batch is spread over devices.

    Args:
        key: of this call.
        places: each image's place in the global batch.
        settings: strengths and probabilities.
        gates: from `draw_gates`, where several calls share them; None draws them.
    """
    gate_key, order_key, blur_key, factor_key = jax.random.split(key, 4)
    jittered, blurred = gates or draw_gates(gate_key, settings)
    shared = (
        jittered,
        jax.random.permutation(order_key, 4),
        blurred,
        _draw_sigma(blur_key, settings),
    )
    jittered, order, blurred, sigma = (
        jnp.broadcast_to(x, (*places.shape, *x.shape)) for x in shared
    )
    return PhotometricDecisions(
        jittered=jittered,
        order=order,
        factors=jax.vmap(lambda key: _draw_factors(key, settings))(
            _image_keys(factor_key, places)
        ),
        gray=jnp.zeros_like(jittered),
        blurred=blurred,
        sigma=sigma,
    )


def draw_images(
    key: Key, places: Int[Array, " b"], settings: PhotometricSettings
) -> PhotometricDecisions:
    """Decisions that every image has for itself, a function of (key, place) alone.

    Args:
        key: of this step.
        places: each image's place in the global batch.
        settings: strengths and probabilities.
    """

    def draw(key: Key) -> PhotometricDecisions:
        gates, order, factors, gray, blur = jax.random.split(key, 5)
        jittered, blurred = draw_gates(gates, settings)
        return PhotometricDecisions(
            jittered=jittered,
            order=jax.random.permutation(order, 4),
            factors=_draw_factors(factors, settings),
            gray=jax.random.uniform(gray) < settings.gray_probability,
            blurred=blurred,
            sigma=_draw_sigma(blur, settings),
        )

    return jax.vmap(draw)(_image_keys(key, places))


def photometric(
    images: Float[Array, "b h w 3"],
    decisions: PhotometricDecisions,
    scheme: str = "imagenet",
) -> Float[Array, "b h w 3"]:
    """Network input after jitter or grey, then blur.

    Args:
        images: normalised by `scheme`.
        decisions: of `draw_images` or `draw_call`, or recorded.
        scheme: one of `ops.color.SCHEMES`.
    """

    def colour(images: Array) -> Array:
        unit = to_unit(images, scheme)
        jittered = jitter(unit, decisions.factors, decisions.order)
        jittered = _where(decisions.jittered, jittered, unit)
        unit = _where(decisions.gray, grayscale(unit), jittered)
        return from_unit(unit, scheme)

    def soften(images: Array) -> Array:
        blurred = gaussian_blur(images, decisions.sigma)
        return _where(decisions.blurred, blurred, images)

    # Gates that are closed for the whole batch cost nothing and change no bit.
    coloured = decisions.jittered | decisions.gray
    images = jax.lax.cond(coloured.any(), colour, lambda x: x, images)
    return jax.lax.cond(decisions.blurred.any(), soften, lambda x: x, images)


def jitter(
    images: Float[Array, "b h w 3"],
    factors: Float[Array, "b 4"],
    order: Int[Array, "b 4"],
) -> Float[Array, "b h w 3"]:
    """The four colour operations, in each image's own order.

    Args:
        images: RGB in [0, 1].
        factors: of each of `OPERATIONS`.
        order: which of `OPERATIONS` comes first, second, third, fourth.
    """

    def place(before: Array, now: Int[Array, " b"]) -> tuple[Array, None]:
        images = before
        for index, operation in enumerate(OPERATIONS):
            changed = operation(before, factors[:, index])
            images = _where(now == index, changed, images)
        return images, None

    return jax.lax.scan(place, images, order.T)[0]


def brightness(
    images: Float[Array, "b h w 3"], factors: Float[Array, " b"]
) -> Float[Array, "b h w 3"]:
    """clip(x + factor - 1, 0, 1): added, not multiplied."""
    return jnp.clip(images + (_over(factors) - 1), 0, 1)


def contrast(
    images: Float[Array, "b h w 3"], factors: Float[Array, " b"]
) -> Float[Array, "b h w 3"]:
    """clip(x factor, 0, 1): about black, not about the mean."""
    return jnp.clip(images * _over(factors), 0, 1)


def saturation(
    images: Float[Array, "b h w 3"], factors: Float[Array, " b"]
) -> Float[Array, "b h w 3"]:
    """S of HSV becomes clip(S factor, 0, 1)."""
    angle, share, value = _channels(to_hsv(images))
    share = jnp.clip(share * _over(factors)[..., 0], 0, 1)
    return from_hsv(jnp.stack([angle, share, value], -1))


def hue(
    images: Float[Array, "b h w 3"], factors: Float[Array, " b"]
) -> Float[Array, "b h w 3"]:
    """H of HSV turned by `factor` of a full turn."""
    angle, share, value = _channels(to_hsv(images))
    angle = jnp.fmod(angle + _over(factors)[..., 0] * _TURN, _TURN)
    return from_hsv(jnp.stack([angle, share, value], -1))


OPERATIONS: tuple[Callable[[Array, Array], Array], ...] = (
    brightness,
    contrast,
    saturation,
    hue,
)
"""Colour operations by the index that a jitter order speaks of."""


def grayscale(images: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    """0.299 R + 0.587 G + 0.114 B in all three channels."""
    red, green, blue = _channels(images)
    grey = _GREY[0] * red + _GREY[1] * green + _GREY[2] * blue
    return jnp.broadcast_to(grey[..., None], images.shape)


def to_hsv(images: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    """Hue in [0, 2 pi), saturation and value in [0, 1], from RGB in [0, 1].

    Where channels tie for the largest, the first of them decides the hue.
    """
    red, green, blue = _channels(images)
    value = images.max(-1)
    spread = value - images.min(-1)
    share = spread / (value + _EPSILON)
    divisor = jnp.where(spread == 0, 1, spread)
    red, green, blue = (value - x for x in (red, green, blue))
    sector = jnp.select(
        [red == 0, green == 0],
        [blue - green, 2 * divisor + red - blue],
        4 * divisor + green - red,
    )
    angle = jnp.mod(sector / divisor / 6, 1) * _TURN
    return jnp.stack([angle, share, value], -1)


def from_hsv(images: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    """RGB from hue in radians, saturation and value; the inverse of `to_hsv`."""
    angle, share, value = _channels(images)
    position = jnp.mod(angle / _TURN * 6, 6)
    sector = jnp.mod(jnp.floor(position), 6)
    rest = position - sector
    low = value * (1 - share)
    falling = value * (1 - rest * share)
    rising = value * (1 - (1 - rest) * share)
    index = sector.astype(jnp.int32)
    channels = (
        (value, falling, low, low, rising, value),
        (rising, value, value, falling, low, low),
        (low, low, rising, value, value, falling),
    )
    is_sector = [index == i for i in range(6)]
    return jnp.stack([jnp.select(is_sector, c) for c in channels], -1)


def kernel_size(size: int) -> int:
    """Taps of the blur along an axis of `size` pixels: odd, about a tenth of it."""
    tenth = math.ceil(0.1 * size)
    return math.floor(tenth - 0.5 + tenth % 2)


def gaussian_blur(
    images: Float[Array, "b h w c"], sigma: Float[Array, " b"]
) -> Float[Array, "b h w c"]:
    """Separable Gaussian blur, each image of its own width; borders are reflected.

    Args:
        images: any range.
        sigma: standard deviation in pixels, above 0.
    """
    rows, columns = (_blur_matrix(n, sigma) for n in images.shape[1:3])
    return jnp.einsum("bhH,bHWc,bwW->bhwc", rows, images, columns, precision="highest")


def _blur_matrix(size: int, sigma: Float[Array, " b"]) -> Float[Array, "b n n"]:
    """Row i weighs the inputs of output i; the edge itself is not repeated."""
    radius = kernel_size(size) // 2
    exponent = (-0.5 / jnp.square(sigma))[:, None, None]

    def bell(distance: np.ndarray) -> Float[Array, "b _rows _columns"]:
        squares = jnp.asarray(np.square(distance), jnp.float32)
        inside = jnp.asarray(np.abs(distance) <= radius)
        return jnp.where(inside[None], jnp.exp(squares[None] * exponent), 0)

    output, source = np.ogrid[:size, :size]
    last = size - 1
    left = np.where(source > 0, output + source, size)
    right = np.where(source < last, 2 * last - output - source, size)
    weights = bell(output - source) + bell(left) + bell(right)
    return weights / bell(np.arange(-radius, radius + 1)[None]).sum(-1, keepdims=True)


def _draw_factors(key: Key, settings: PhotometricSettings) -> Float[Array, "4"]:
    strengths = jnp.array(settings.jitter, jnp.float32)
    neutral = jnp.array([1, 1, 1, 0], jnp.float32)
    return neutral + strengths * jax.random.uniform(key, (4,), minval=-1.0)


def _draw_sigma(key: Key, settings: PhotometricSettings) -> Float[Array, ""]:
    low, high = settings.blur_sigma
    return jax.random.uniform(key, minval=low, maxval=high)


def _image_keys(key: Key, places: Int[Array, " b"]) -> Key:
    return jax.vmap(jax.random.fold_in, (None, 0))(key, places)


def _channels(images: Array) -> tuple[Array, Array, Array]:
    return images[..., 0], images[..., 1], images[..., 2]


def _over(values: Float[Array, " b"]) -> Float[Array, "b 1 1 1"]:
    return values[:, None, None, None]


def _where(chosen: Array, images: Array, others: Array) -> Array:
    """For each image, `images` where chosen."""
    return jnp.where(chosen[:, None, None, None], images, others)
