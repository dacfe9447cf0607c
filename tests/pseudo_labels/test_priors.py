import numpy as np
import pytest
import scipy.io

from sfda_jax.data.statistics import smoothed_frequencies, spatial_prior
from sfda_jax.errors import ConfigError, DataError
from sfda_jax.pseudo_labels import priors

PRIOR = np.random.default_rng(0).random((3, 4, 6)).astype(np.float32)


def test_counts_of_predictions_make_a_prior():
    batches = [np.array([[[0, 1], [2, 2]]]), np.array([[[0, 1], [1, 2]]] * 2)]
    counts, num_images = priors.count_predictions(iter(batches), 3)
    assert num_images == 3
    np.testing.assert_array_equal(counts.sum(0), 3)
    np.testing.assert_array_equal(counts[:, 1, 0], [0, 2, 1])
    prior = priors.prior_of_counts(counts, num_images, kernel=2)
    smoothed = smoothed_frequencies(counts, num_images, kernel=2)
    np.testing.assert_allclose(prior, spatial_prior(smoothed), rtol=1e-6)
    np.testing.assert_allclose(prior.sum((1, 2)), 1, rtol=1e-6)
    pixels = priors.prior_of_counts(counts, 3, kernel=2, normalise="pixel")
    np.testing.assert_allclose(pixels.sum(0), 1, rtol=1e-6)
    with pytest.raises(DataError, match="no images"):
        priors.count_predictions(iter(()), 3)


def test_resizing():
    assert priors.resize_prior(PRIOR, (4, 6)) is PRIOR
    smaller = priors.resize_prior(PRIOR, (2, 3))
    expected = PRIOR.reshape(3, 2, 2, 3, 2).mean((2, 4))
    np.testing.assert_allclose(smaller, expected, rtol=1e-6)
    assert priors.resize_prior(PRIOR, (8, 9)).shape == (3, 8, 9)


@pytest.mark.parametrize("kind", ["mat", "npy", "npz", "alone.npz", "alone.mat"])
def test_files(kind, tmp_path):
    path = tmp_path / f"prior.{kind}"
    name = "other" if "alone" in kind else priors.ARRAY_NAME
    extra = {} if "alone" in kind else {"kernel": np.ones(2)}
    if kind.endswith("mat"):
        scipy.io.savemat(path, {name: PRIOR.astype(np.float64), **extra})
    elif kind == "npy":
        np.save(path, PRIOR)
    else:
        np.savez(path, **{name: PRIOR, **extra})
    loaded = priors.load_prior(str(path), 3)
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded, PRIOR)


def test_faults_are_named(tmp_path):
    path = tmp_path / "prior.npy"
    with pytest.raises(ConfigError, match="neither none"):
        priors.load_prior("sources", 3)
    with pytest.raises(ConfigError, match="no such file"):
        priors.load_prior(str(path), 3)
    np.save(path, PRIOR)
    with pytest.raises(DataError, match=r"\(3, 4, 6\); expected \(19"):
        priors.load_prior(str(path), 19)
    broken = PRIOR.copy()
    broken[1, 2, 3] = np.nan
    np.save(path, broken)
    with pytest.raises(DataError, match=r"of classes \[1\]"):
        priors.load_prior(str(path), 3)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match="cannot be read"):
        priors.load_prior(str(path), 3)
    both = tmp_path / "both.npz"
    np.savez(both, a=PRIOR, b=PRIOR)
    with pytest.raises(DataError, match="holds the arrays a, b"):
        priors.load_prior(str(both), 3)
    cut = tmp_path / "cut.mat"
    cut.write_bytes(b"MATLAB 5.0 MAT-file".ljust(40))
    with pytest.raises(DataError, match="cannot be read"):
        priors.load_prior(str(cut), 3)


def test_new_matlab_files_say_how_to_convert_them(tmp_path):
    # The header of version 7.3: text, then version 0x0200 in little-endian order.
    header = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM"
    path = tmp_path / "prior_array.mat"
    path.write_bytes(header + b"\x89HDF\r\n\x1a\n".rjust(392))
    with pytest.raises(DataError, match=r"version 7\.3") as caught:
        priors.load_prior(str(path), 19)
    assert "-v7" in caught.value.hint
