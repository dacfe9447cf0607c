"""Prototypes on disk, ours and published, and what is refused."""

import jax.numpy as jnp
import numpy as np
import pytest

from sfda_jax.errors import CheckpointError
from sfda_jax.pseudo_labels.gaussian_mixtures import Mixture, stack_mixtures
from sfda_jax.weights.mixture_files import (
    published_tree,
    read_mixtures,
    write_mixtures,
)
from sfda_jax.weights.torch_file import read_torch_file, write_torch_file


@pytest.fixture
def mixtures():
    """Of three classes, the second without one."""
    rng = np.random.default_rng(0)

    def one():
        draw = rng.uniform(0.1, 1, (2, 2, 4)).astype(np.float32)
        pi = jnp.array([0.25, 0.75])
        return Mixture(pi=pi, mu=jnp.asarray(draw[0]), var=jnp.asarray(draw[1]))

    return stack_mixtures([one(), None, one()], 2, 4)


def assert_equal(found, expected):
    valid = np.asarray(expected.valid)
    np.testing.assert_array_equal(found.valid, valid)
    for name in ("mu", "var", "pi"):
        one, other = (np.asarray(getattr(m, name)) for m in (found, expected))
        np.testing.assert_array_equal(one[valid], other[valid])


@pytest.mark.parametrize("name", ["prototypes.npz", "published"])
def test_there_and_back(tmp_path, mixtures, name):
    path = tmp_path / "new" / name
    write_mixtures(path, mixtures)
    assert_equal(read_mixtures(path, 3), mixtures)
    assert not list(tmp_path.rglob("*.partial"))


def test_published_files(tmp_path, mixtures):
    write_mixtures(tmp_path, mixtures, eps=1e-5)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0_gmm.pth", "2_gmm.pth"]
    tree = read_torch_file(tmp_path / "2_gmm.pth")
    assert (tree["n_components"], tree["n_features"], tree["eps"]) == (2, 4, 1e-5)
    np.testing.assert_array_equal(tree["state_dict"]["var"][0], mixtures.var[2])
    with pytest.raises(CheckpointError, match="holds prototypes already"):
        write_mixtures(tmp_path, mixtures)


def test_what_is_refused(tmp_path, mixtures):
    with pytest.raises(CheckpointError, match="do not exist"):
        read_mixtures(tmp_path / "none.npz", 3)
    with pytest.raises(CheckpointError, match=r"no _gmm\.pth files"):
        read_mixtures(tmp_path, 3)
    ours = tmp_path / "ours.npz"
    write_mixtures(ours, mixtures)
    with pytest.raises(CheckpointError, match=r"\(3, 2, 4\).* each of 19 classes"):
        read_mixtures(ours, 19)
    ours.write_bytes(ours.read_bytes()[:200])
    with pytest.raises(CheckpointError, match="no readable file of prototypes"):
        read_mixtures(ours, 3)
    folder = tmp_path / "published"
    write_mixtures(folder, mixtures)
    (folder / "2_gmm.pth").rename(folder / "car_gmm.pth")
    with pytest.raises(CheckpointError, match=r"holds car_gmm.pth; expected files"):
        read_mixtures(folder, 3)
    (folder / "car_gmm.pth").unlink()
    write_torch_file(folder / "1_gmm.pth", {"state_dict": {"mu": np.ones(3)}})
    with pytest.raises(CheckpointError, match=r"1_gmm.pth is no published mixture"):
        read_mixtures(folder, 3)
    one = {"mu": np.ones((2, 5)), "var": np.ones((2, 5)), "pi": np.ones(2)}
    write_torch_file(folder / "1_gmm.pth", published_tree(one, eps=1e-6))
    with pytest.raises(CheckpointError, match="mixtures of different shapes"):
        read_mixtures(folder, 3)
    one["var"][1, 3] = -1
    write_torch_file(folder / "1_gmm.pth", published_tree(one, eps=1e-6))
    with pytest.raises(CheckpointError, match=r"1_gmm.pth: NaN, infinite or non-posit"):
        read_mixtures(folder, 3)
