import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sfda_jax.ops.resize import resize_bilinear
from sfda_jax.pseudo_labels import prototypes
from sfda_jax.pseudo_labels.gaussian_mixtures import INVALID, Mixtures, log_density


def random_mixtures(classes=5, components=2, dims=7, seed=0):
    rng = np.random.default_rng(seed)
    shape = (classes, components, dims)
    return Mixtures(
        mu=jnp.asarray(rng.random(shape), jnp.float32),
        var=jnp.asarray(0.1 + rng.random(shape), jnp.float32),
        pi=jnp.full(shape[:2], 1 / components, jnp.float32),
        valid=jnp.arange(classes) != 3,
    )


def random_features(batch, size=(5, 7), dims=7, seed=1):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.random((batch, *size, dims)), jnp.float32)


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("tile", [1, 60, 10**6], ids=["rows", "ragged", "whole"])
def test_tiles_give_what_the_whole_map_gives(monkeypatch, tile, batch, align_corners):
    monkeypatch.setattr(prototypes, "_TILE_PIXELS", tile)
    mixtures, features = random_mixtures(), random_features(batch)
    assign = functools.partial(
        prototypes.pixel_log_densities, size=(13, 17), align_corners=align_corners
    )
    found = jax.jit(assign)(mixtures, features)
    large = resize_bilinear(features, (13, 17), align_corners=align_corners)
    expected = log_density(mixtures, large.reshape(-1, 7)).reshape(batch, 13, 17, 5)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)
    assert (found[..., 3] == INVALID).all()


def test_features_are_enlarged_not_scores():
    """Between two cells of one class a third class lies."""
    mixtures = Mixtures(
        mu=jnp.asarray([[[-1.0], [1.0]], [[0.0], [0.0]]]),
        var=jnp.full((2, 2, 1), 0.1),
        pi=jnp.full((2, 2), 0.5),
        valid=jnp.ones(2, bool),
    )
    features = jnp.asarray([-1.0, 1.0]).reshape(1, 1, 2, 1)
    found = prototypes.pixel_log_densities(mixtures, features, (1, 3))
    assert found[0, 0].argmax(-1).tolist() == [0, 1, 0]


def test_full_size_features_are_never_held():
    """What the program needs beside its input and output: some tiles."""
    features = jax.ShapeDtypeStruct((1, 32, 64, 32), jnp.float32)
    assign = functools.partial(
        prototypes.pixel_log_densities, random_mixtures(dims=32), size=(512, 1024)
    )
    compiled = jax.jit(assign).lower(features).compile()
    full = 512 * 1024 * 32 * 4
    assert compiled.memory_analysis().temp_size_in_bytes < full / 2


def test_flip_mean_before_enlarging_is_flip_mean_after():
    features, mirrored = random_features(1, seed=2), random_features(1, seed=3)
    enlarge = functools.partial(resize_bilinear, size=(9, 16), align_corners=True)
    after = (enlarge(features) + enlarge(mirrored)[:, :, ::-1]) / 2
    found = enlarge(prototypes.flip_mean(features, mirrored))
    np.testing.assert_allclose(found, after, rtol=0, atol=1e-6)
