"""Parity of the on-device photometric augmentation with the recorded ATP engine."""

import itertools

import jax.numpy as jnp
import numpy as np

from sfda_jax.ops import photometric
from sfda_jax.ops.color import MEAN, STD, from_unit, to_unit
from sfda_jax.ops.photometric import PhotometricDecisions

SYSTEM = "atp"


def _nhwc(images: np.ndarray) -> jnp.ndarray:
    return jnp.asarray(images.transpose(0, 2, 3, 1))


def _close(images, expected: np.ndarray, atol: float = 1e-5, share: float = 1.0):
    error = np.abs(np.asarray(images).transpose(0, 3, 1, 2) - expected)
    assert (error <= atol).mean() >= share, error.max()


def _decisions(count: int, **given) -> PhotometricDecisions:
    """Gates closed and nothing changed, but for what is given."""
    neutral = {
        "jittered": np.zeros(count, bool),
        "order": np.tile(np.arange(4), (count, 1)),
        "factors": np.tile(np.array([1, 1, 1, 0], np.float32), (count, 1)),
        "gray": np.zeros(count, bool),
        "blurred": np.zeros(count, bool),
        "sigma": np.ones(count, np.float32),
    }
    return PhotometricDecisions(
        **{name: jnp.asarray(x) for name, x in (neutral | given).items()}
    )


def check_color_jitter(path):
    case = np.load(path)
    np.testing.assert_allclose(case["mean"], 255 * np.array(MEAN), rtol=1e-6)
    np.testing.assert_allclose(case["std"], 255 * np.array(STD), rtol=1e-6)
    images, count = _nhwc(case["img"]), len(case["img"])
    names = ("brightness", "contrast", "saturation", "hue")
    factors = np.stack([case[name] for name in names], 1)
    order = np.tile(case["order"], (count, 1))
    _close(to_unit(images), case["denorm"])
    unit = photometric.jitter(
        _nhwc(case["denorm"]), jnp.asarray(factors), jnp.asarray(order)
    )
    _close(unit, case["jittered01"], atol=1e-3, share=0.999)
    decisions = _decisions(
        count, jittered=np.ones(count, bool), order=order, factors=factors
    )
    out = photometric.photometric(images, decisions)
    _close(out, case["out"], atol=1e-3, share=0.999)


def check_color_ops(path):
    case = np.load(path)
    images, factor = _nhwc(case["img01"]), jnp.asarray(case["factor"])
    for name in ("brightness", "contrast", "saturation"):
        _close(getattr(photometric, name)(images, factor), case[name])
    _close(photometric.hue(images, jnp.asarray(case["hue"])), case["hue_out"])
    _close(photometric.to_hsv(images), case["hsv"])


def check_side_effect(path):
    """Q9: the jitter's input tensor becomes the de-normalised image."""
    case = np.load(path)
    images, count = _nhwc(case["img_before"]), len(case["img_before"])
    _close(to_unit(images), case["img_after"])
    _close(from_unit(to_unit(images)), case["img_before"])
    # The order of the call is not recorded, and matters where the image leaves [0, 1].
    errors = []
    for order in itertools.permutations(range(4)):
        opened = _decisions(
            count, jittered=np.ones(count, bool), order=np.tile(order, (count, 1))
        )
        out = np.asarray(photometric.photometric(images, opened))
        errors.append(np.abs(out.transpose(0, 3, 1, 2) - case["out"]).max())
    assert min(errors) <= 1e-5


def check_kernel_size(path):
    case = np.load(path)
    found = [photometric.kernel_size(n) for n in case["size"].tolist()]
    np.testing.assert_array_equal(found, case["kernel"])


def check_gaussian_blur(path):
    case = np.load(path)
    images, count = _nhwc(case["img"]), len(case["img"])
    sigma = np.broadcast_to(case["sigma"], count)
    _close(photometric.gaussian_blur(images, jnp.asarray(sigma)), case["out"])
    opened = _decisions(count, blurred=np.ones(count, bool), sigma=sigma)
    _close(photometric.photometric(images, opened), case["out"])


CHECKERS = {
    "blur_kernel_size*.npz": check_kernel_size,
    "color_jitter_*.npz": check_color_jitter,
    "color_ops*.npz": check_color_ops,
    "gaussian_blur_*.npz": check_gaussian_blur,
    "strong_transform_inplace_side_effect*.npz": check_side_effect,
}
