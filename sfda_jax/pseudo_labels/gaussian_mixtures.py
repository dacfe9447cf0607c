"""Gaussian mixtures and their log-densities (BiSMAP's specification, section 5.3).

A log-density is linear in the features of a row (its squares and itself), so any
number of components costs one product of matrices. Its terms cancel where a component
is narrow and far from the origin; everything is therefore reckoned from an `anchor`,
in each dimension the mean of the narrowest component. Dimensions that are always zero
behind a ReLU, of variance `eps`, then lose no digits in float32.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float

INVALID = -99_999_999.0
"""The log-density of a class without a mixture: below any other."""

_EXACT = jax.lax.Precision.HIGHEST


@struct.dataclass
class Mixture:
    """One class's mixture of K Gaussians in D dimensions.

    Attributes:
        pi: weights of the components, positive; they sum to 1 up to the fit's `eps`.
        mu: means.
        var: variances `[K,D]`, or full covariances `[K,D,D]`.
    """

    pi: Float[Array, " k"]
    mu: Float[Array, "k d"]
    var: Float[Array, "k d"] | Float[Array, "k d d"]


@struct.dataclass
class Mixtures:
    """The mixtures of C classes, of diagonal covariance: BiSMAP's prototypes.

    Attributes:
        mu: means.
        var: variances, positive.
        pi: weights of the components.
        valid: classes that have a mixture; the others' numbers mean nothing.
    """

    mu: Float[Array, "c k d"]
    var: Float[Array, "c k d"]
    pi: Float[Array, "c k"]
    valid: Bool[Array, " c"]


def stack_mixtures(
    mixtures: list[Mixture | None], num_components: int, num_dims: int
) -> Mixtures:
    """One entry per class, None where a class has no mixture."""
    empty = Mixture(
        pi=jnp.full(num_components, 1 / num_components),
        mu=jnp.zeros((num_components, num_dims)),
        var=jnp.ones((num_components, num_dims)),
    )
    filled = [empty if mixture is None else mixture for mixture in mixtures]
    return Mixtures(
        mu=jnp.stack([mixture.mu for mixture in filled]),
        var=jnp.stack([mixture.var for mixture in filled]),
        pi=jnp.stack([mixture.pi for mixture in filled]),
        valid=jnp.asarray(np.array([m is not None for m in mixtures])),
    )


def anchor(
    mu: Float[Array, "k d"], var: Float[Array, "k d"] | Float[Array, "k d d"]
) -> Float[Array, " d"]:
    """In each dimension the mean of the component whose variance is the smallest."""
    if var.ndim == 3:
        var = jnp.diagonal(var, axis1=1, axis2=2)
    narrowest = jnp.argmin(var, axis=0)
    return jnp.take_along_axis(mu, narrowest[None], axis=0)[0]


def row_features(y: Float[Array, "n d"], *, full: bool) -> Float[Array, "n m"]:
    """What log-densities are linear in: squares (or all products) and the row."""
    squares = y * y
    if full:
        squares = (y[:, :, None] * y[:, None]).reshape(len(y), -1)
    return jnp.concatenate([squares, y], axis=1)


def _natural(
    mixture: Mixture, origin: Float[Array, " d"]
) -> tuple[Float[Array, "k m"], Float[Array, " k"]]:
    """Factors of the row's features, and constants, of ln N + ln pi."""
    mean = mixture.mu - origin[None]
    if mixture.var.ndim == 3:
        factor = jnp.linalg.cholesky(mixture.var)
        eye = jnp.broadcast_to(jnp.eye(mean.shape[1], dtype=mean.dtype), factor.shape)
        half = jax.scipy.linalg.solve_triangular(factor, eye, lower=True)
        precision = jnp.einsum("kij,kil->kjl", half, half, precision=_EXACT)
        linear = jnp.einsum("kij,kj->ki", precision, mean, precision=_EXACT)
        squares = precision.reshape(len(mean), -1)
        log_det = 2 * jnp.log(jnp.diagonal(factor, axis1=1, axis2=2)).sum(1)
    else:
        linear, squares = mean / mixture.var, 1 / mixture.var
        log_det = jnp.log(mixture.var).sum(1)
    scale = mean.shape[1] * np.log(2 * np.pi).item()
    constant = -0.5 * ((mean * linear).sum(1) + log_det + scale)
    factors = jnp.concatenate([-0.5 * squares, linear], axis=1)
    return factors, constant + jnp.log(mixture.pi)


def log_joint(
    mixture: Mixture, x: Float[Array, "n d"], origin: Float[Array, " d"] | None = None
) -> Float[Array, "n k"]:
    """ln N(x; mu_k, var_k) + ln pi_k.

    Args:
        mixture: K components.
        x: rows, of the mixture's dtype.
        origin: where coordinates are reckoned from; the mixture's `anchor` by default.
    """
    if origin is None:
        origin = anchor(mixture.mu, mixture.var)
    factors, constants = _natural(mixture, origin)
    features = row_features(x - origin[None], full=mixture.var.ndim == 3)
    return jnp.dot(features, factors.T, precision=_EXACT) + constants[None]


def log_density(mixtures: Mixtures, x: Float[Array, "n d"]) -> Float[Array, "n c"]:
    """ln p_c(x) of every class, its components' weights included, without a prior.

    Args:
        mixtures: of C classes.
        x: rows, of the mixtures' dtype.

    Returns:
        Nats; `INVALID` for classes that are not valid.
    """
    num_classes, num_components, num_dims = mixtures.mu.shape
    valid = mixtures.valid[:, None, None]
    # what classes without a mixture hold may neither be the anchor nor make NaN
    flat = Mixture(
        pi=jnp.where(valid[:, :, 0], mixtures.pi, 1).reshape(-1),
        mu=jnp.where(valid, mixtures.mu, 0).reshape(-1, num_dims),
        var=jnp.where(valid, mixtures.var, jnp.inf).reshape(-1, num_dims),
    )
    joint = log_joint(flat, x).reshape(len(x), num_classes, num_components)
    density = jax.nn.logsumexp(joint, axis=2)
    return jnp.where(mixtures.valid[None], density, INVALID)
