import jax.numpy as jnp
import numpy as np
import pytest

from sfda_jax.errors import ConfigError
from sfda_jax.pseudo_labels import transferability
from sfda_jax.tasks import CLASS_SPACES
from sfda_jax.types import IGNORE


def test_published_boosts_go_by_name():
    wide = transferability.published_boost("synthia", CLASS_SPACES["cityscapes19"])
    narrow = transferability.published_boost("synthia", CLASS_SPACES["synthia16"])
    names = [CLASS_SPACES[space].names for space in ("cityscapes19", "synthia16")]
    for name, boost in zip(names[1], narrow, strict=True):
        assert boost == wide[names[0].index(name)]
    assert wide[[9, 14, 16]].tolist() == [0, 0, 0]  # absent classes are the least
    assert narrow.min() > 0
    gta = transferability.published_boost("gta5", CLASS_SPACES["cityscapes19"])
    assert (gta.argmin(), gta.argmax()) == (10, 18)  # sky and bicycle
    none = transferability.published_boost("none", CLASS_SPACES["polyp2"])
    assert none.tolist() == [0, 0]


def test_published_boosts_of_other_classes():
    with pytest.raises(ConfigError, match="'background' of polyp2"):
        transferability.published_boost("gta5", CLASS_SPACES["polyp2"])
    with pytest.raises(ConfigError, match="Did you mean 'gta5'"):
        transferability.published_boost("gta", CLASS_SPACES["cityscapes19"])


@pytest.mark.parametrize("width", [4, 5])
def test_pool_columns(width):
    x = jnp.arange(2.0 * width).reshape(1, 2, width, 1)
    found = np.asarray(transferability.pool_columns(x))[0, :, :, 0]
    first, second = [0.5, 2.5], [width + 0.5, width + 2.5]
    np.testing.assert_array_equal(found, [first, second])


def test_near_distances_keep_their_digits():
    centres = jnp.asarray([[0.0, 0.0], [1000.0, 1000.0]])
    x = jnp.asarray([[[[3.0, 4.0], [1000.0, 1000.0], [1000.0, 1000.25]]]])
    found = transferability.nearest_distances(x, centres)
    np.testing.assert_array_equal(found[0, 0], [5, 0, 0.25])


def distances(*means):
    return np.stack([np.full((4, 4), mean, np.float32) for mean in means])


def test_the_mean_moves_before_an_image_is_weighed():
    found = transferability.mean_distances(distances(2, 4, 1), decay=0.5)
    np.testing.assert_allclose(found, [2, 3, 2])
    found = transferability.mean_distances(distances(2, 4), decay=0.99)
    np.testing.assert_allclose(found, [2, 2.02])


def test_the_global_mean_knows_no_order():
    for order in ((2, 4, 3), (4, 3, 2)):
        found = transferability.mean_distances(distances(*order), mean="global")
        assert found.tolist() == [3, 3, 3]


def test_cell_weights():
    d = np.array([[[0, 2], [4, 1000]], [[0, 0], [0, 0]]], np.float32)
    found = transferability.cell_weights(d, np.array([2, 0], np.float32))
    np.testing.assert_allclose(found[0], [[1, 0.5], [0.0625, 0]], rtol=1e-6)
    assert (found[1] == 1).all()  # every cell on a centre: no mean to divide by


def test_weight_map():
    weights = np.array([[0.0, 0.5], [0.25, 1.0]], np.float32)
    labels = np.array([[0, 1], [IGNORE, 2]], np.uint8)
    boost = np.array([0.1, 0.25, 0.9])
    found = transferability.weight_map(weights, labels, boost, size=(4, 2))
    # rounded down: 0.1 * 255 = 25.5, 0.75 * 255 = 191.25, 0.25 * 255 = 63.75
    rows = [[25, 191], [25, 191], [63, 255], [63, 255]]
    np.testing.assert_array_equal(found, rows)


def test_weight_map_resizes_labels_as_pillow_does():
    weights, boost = np.zeros((1, 1), np.float32), np.array([0.0, 1.0])
    labels = np.array([[0, 1, 1, 0, 1]], np.uint8)
    found = transferability.weight_map(weights, labels, boost, size=(1, 2))
    np.testing.assert_array_equal(found, 255 * labels[:, [1, 3]])
