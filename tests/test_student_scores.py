import jax
import jax.numpy as jnp
import numpy as np

from sfda_jax import student_scores
from sfda_jax.data.stable_neighbours import low_frequency_style
from sfda_jax.ops.collectives import gather_batch


def _random(seed, *shape):
    values = np.random.default_rng(seed).normal(size=shape)
    return jnp.asarray(values, jnp.float32)


def test_positions_are_distinct():
    positions = student_scores.draw_positions(jax.random.key(0), 50, 20)
    assert len(set(positions.tolist())) == 20
    assert int(positions.min()) >= 0 and int(positions.max()) < 50


def test_density_prefers_clusters():
    positions = jnp.arange(6)
    tight = jnp.eye(2).repeat(3, axis=0)
    loose = jnp.asarray(np.random.default_rng(0).dirichlet([5, 5], 6), jnp.float32)
    score = student_scores.soft_neighbourhood_density
    np.testing.assert_allclose(score(tight, positions), np.log(3), atol=1e-3)
    assert score(loose, positions) > score(tight, positions)


def test_scores_by_name():
    probs = jnp.asarray([[0.5, 0.5], [1.0, 0.0]])
    positions = jnp.arange(2)
    # 1 + 2 * 0.5 * log2(0.5) = 0 and 1 + 0 = 1.
    np.testing.assert_allclose(student_scores.score("ent", probs, positions), [0.5])
    expected = student_scores.soft_neighbourhood_density(probs, positions)
    np.testing.assert_array_equal(
        student_scores.score("soft_nd", probs, positions), expected[None]
    )


def test_entropy_of_images():
    uniform = jnp.full((2, 3, 4), 0.25)
    sure = jnp.zeros((2, 3, 4)).at[..., 1].set(1)
    half = jnp.concatenate([uniform[:1], sure[:1]])
    entropies = student_scores.image_entropy(jnp.stack([uniform, sure, half]))
    np.testing.assert_allclose(
        entropies, [np.log(4), 0, np.log(4) / 2], rtol=1e-6, atol=1e-9
    )


def test_style_is_where_the_low_frequencies_are():
    rows, columns = np.meshgrid(np.arange(16), np.arange(32), indexing="ij")
    waves = [
        np.cos(2 * np.pi * rows / 16),  # vertical frequency 1
        np.cos(2 * np.pi * columns / 32),  # horizontal frequency 1
        np.cos(2 * np.pi * 7 * columns / 32) + 0.5,  # 7 is left out, the mean is not
    ]
    images = jnp.asarray(np.stack(waves)[..., None].repeat(3, -1), jnp.float32)
    styles = student_scores.style_vectors(images, keep_ratio=0.125)
    # int(16 / 8) rows and int(17 / 8) columns.
    expected = np.zeros((3, 2, 2))
    expected[0, 1, 0] = expected[1, 0, 1] = expected[2, 0, 0] = 1
    np.testing.assert_allclose(styles, expected.reshape(3, 4), atol=1e-6)


def test_style_of_small_and_constant_images():
    styles = student_scores.style_vectors(jnp.zeros((2, 3, 5, 3)))
    np.testing.assert_array_equal(styles, [[0], [0]])


def test_style_is_the_same_on_host_and_device():
    images = _random(0, 2, 24, 40, 3)
    host = [low_frequency_style(np.asarray(image)) for image in images]
    np.testing.assert_allclose(
        student_scores.style_vectors(images), np.stack(host), atol=1e-6
    )


def test_neighbours_are_stable_and_not_oneself():
    entropies = jnp.asarray([0.3, 0.1, 0.9, 0.2, 0.8])
    np.testing.assert_array_equal(student_scores.stable_pool(entropies), [1, 3])
    styles = jnp.asarray([[1, 0], [0.6, 0.8], [0, 1], [0.8, 0.6], [1, 0]])
    neighbours = student_scores.stable_neighbours(entropies, styles)
    np.testing.assert_array_equal(neighbours, [3, 3, 1, 1, 3])


def test_ties_go_to_the_more_certain():
    entropies = jnp.asarray([0.4, 0.2, 0.1, 0.9, 0.9, 0.9])
    neighbours = student_scores.stable_neighbours(entropies, jnp.ones((6, 1)))
    np.testing.assert_array_equal(neighbours, [2, 2, 1, 2, 2, 2])


def test_alone_in_the_pool_it_is_its_own_neighbour():
    for size in (1, 3):
        entropies = jnp.arange(size, 0, -1).astype(jnp.float32)
        styles = _random(size, size, 4)
        neighbours = student_scores.stable_neighbours(entropies, styles)
        np.testing.assert_array_equal(neighbours, [size - 1] * size)


def test_neighbour_density_by_hand():
    features = jnp.zeros((2, 2, 2, 3)).at[0, 0, 0, 0].set(2).at[1, ..., 0].set(1)
    neighbours = jnp.asarray([1, 1])
    maps = student_scores.similarity_maps(features, neighbours)
    np.testing.assert_array_equal(maps[0], [[2, 0], [0, 0]])
    np.testing.assert_array_equal(maps[1], np.ones((2, 2)))
    scores = student_scores.neighbour_density(features, neighbours)
    p = np.exp([2, 0, 0, 0]) / np.exp([2, 0, 0, 0]).sum()
    expected = [1 + (p * np.log(p)).mean(), 1 - np.log(4) / 4]
    np.testing.assert_allclose(scores, expected, rtol=1e-6)


def test_saturated_maps_stay_finite_and_tie():
    features = _random(1, 2, 3, 3, 4) * 1e3
    scores = student_scores.neighbour_density(features, jnp.asarray([0, 1]))
    np.testing.assert_array_equal(scores, [1, 1])


def test_gathered_shards_equal_the_batch():
    images, features = _random(2, 4, 16, 24, 3), _random(3, 4, 2, 3, 5)
    probs = jax.nn.softmax(_random(4, 4, 2, 3, 6))

    def scores(images, probs, features, axis_name=None):
        neighbours = student_scores.stable_neighbours(
            gather_batch(student_scores.image_entropy(probs), axis_name),
            gather_batch(student_scores.style_vectors(images), axis_name),
        )
        features = gather_batch(features, axis_name)
        return neighbours, student_scores.neighbour_density(features, neighbours)

    whole = scores(images, probs, features)
    for devices in (2, 4):
        shards = [
            x.reshape(devices, -1, *x.shape[1:]) for x in (images, probs, features)
        ]
        parts = jax.pmap(
            lambda *x: scores(*x, axis_name="d"),
            axis_name="d",
            devices=jax.devices()[:devices],
        )(*shards)
        for part, expected in zip(parts, whole, strict=True):
            for row in part:
                np.testing.assert_allclose(row, expected, rtol=1e-6)
