"""Spatial priors of CBST-SP."""

import numpy as np

from sfda_jax.data.statistics import (
    count_class_maps,
    smoothed_frequencies,
    spatial_prior,
)

SYSTEM = "cbst_crst"


class _Labels:
    def __init__(self, labels):
        self._labels = labels

    def __len__(self):
        return len(self._labels)

    def __getitem__(self, index):
        return {"label": self._labels[index], "id": str(index)}


def check_spatial_prior(path):
    case = np.load(path)
    labels = case["labels"]
    counts = count_class_maps(
        _Labels(labels), int(case["num_classes"]), labels.shape[1:]
    )
    np.testing.assert_array_equal(counts, case["counts"])
    sizes = [key.removeprefix("smooth_k") for key in case.files if "smooth_k" in key]
    assert sizes
    for size in sizes:
        smoothed = smoothed_frequencies(
            counts, len(labels), kernel=int(size), sigma=float(case[f"sigma_k{size}"])
        )
        np.testing.assert_allclose(smoothed, case[f"smooth_k{size}"], rtol=1e-6)
        for over in ("class", "pixel"):
            prior = spatial_prior(smoothed, normalise=over)
            expected = case[f"prior_k{size}_per_{over}"]
            np.testing.assert_allclose(prior, expected, rtol=1e-6)


CHECKERS = {"spec_spatial_prior*.npz": check_spatial_prior}
