"""Gaussian mixtures and k-means: steps, whole fits, files."""

import json
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np

from sfda_jax.pseudo_labels import gaussian_mixtures, kmeans, mixture_fit
from sfda_jax.pseudo_labels.gaussian_mixtures import Mixture, Mixtures
from sfda_jax.pseudo_labels.placed_rows import place_rows
from sfda_jax.weights.mixture_files import write_mixtures
from sfda_jax.weights.torch_file import read_torch_file

SYSTEM = "bismap"

_EXACT = {"rtol": 1e-8, "atol": 1e-10}
# of float32 files
_TOLERANCES = {
    "pi": {"rtol": 0, "atol": 1e-5},
    "mu": {"rtol": 1e-4, "atol": 1e-5},
    "var": {"rtol": 1e-3, "atol": 2e-5},
    "score": {"rtol": 1e-4, "atol": 1e-3},
}


def place(x):
    """Rows on one device: that more change nothing is tested elsewhere."""
    return place_rows(x, devices=jax.devices()[:1])


class _Comparison:
    """The tolerances of a file: of its float type, and of wide features."""

    def __init__(self, x, *, full=False):
        self.exact, self.full = x.dtype == np.float64, full
        self.wide = x.shape[1] >= 256

    def __call__(self, kind, found, expected):
        assert np.shape(found) == np.shape(expected)
        if not self.exact:
            tolerance = _TOLERANCES[kind]
            if kind == "score" and self.wide:
                tolerance = {**tolerance, "rtol": 1e-5}
        elif self.full and kind == "score":
            tolerance = {"rtol": 0, "atol": 1e-5}
        else:
            tolerance = _EXACT
        np.testing.assert_allclose(found, expected, **tolerance)


def _mixture(case):
    return Mixture(**{name: jnp.asarray(case[name]) for name in ("pi", "mu", "var")})


def _densities(mixture, x):
    """Joint log-densities, log-shares and log-densities of rows."""
    joint = np.asarray(jax.jit(gaussian_mixtures.log_joint)(mixture, jnp.asarray(x)))
    density = np.logaddexp.reduce(joint, axis=1)
    return joint, joint - density[:, None], density


def check_em_step(path):
    case = np.load(path)
    x, eps = case["x"], float(case["eps"])
    close = _Comparison(x)
    with jax.enable_x64(close.exact):
        mixture = _mixture(case)
        joint, shares, density = _densities(mixture, x)
        close("score", joint - np.log(case["pi"]), case["log_prob"])
        close("score", shares, case["log_resp"])
        close("score", density.mean(), case["mean_log_prob_norm"])
        settings = mixture_fit.MixtureSettings(eps=eps, delta=np.inf, max_iter=0)
        stepped = mixture_fit.fit(place(x), mixture, settings=settings).mixture
        for name in ("pi", "mu", "var"):
            close(name, getattr(stepped, name), case[f"{name}_new"])


def check_kmeans_init(path):
    case = np.load(path)
    close = _Comparison(case["x"])
    with jax.enable_x64(close.exact):
        start = kmeans.cheapest_start(
            place(case["x"]),
            case["restart_idx"],
            min_delta=float(case["min_delta"]),
        )
    assert start.best == case["best_restart"]
    close("score", start.costs, case["restart_cost"])
    atol = 1e-10 if close.exact else 1e-5
    np.testing.assert_allclose(start.centres, case["mu"], rtol=0, atol=atol)


def check_fit(path):
    case = np.load(path)
    x, full = case["x"], case["var"].ndim == 3
    close = _Comparison(x, full=full)
    settings = mixture_fit.MixtureSettings(
        components=int(case["K"]),
        eps=float(case["eps"]),
        delta=float(case["delta"]),
        max_iter=int(case["n_iter"]),
    )
    with jax.enable_x64(close.exact):
        rows = place(x)
        means = case["mu_init"]
        if "restart_idx" in case:
            means = kmeans.cheapest_start(rows, case["restart_idx"]).centres
            close("mu", means, case["mu_init"])
        start = mixture_fit.start_mixture(means, full=full)
        mixture, scores = mixture_fit.fit(rows, start, settings=settings)
        assert len(scores) == case["n_em_steps"]
        close("score", scores, case["ll_history"])
        for name in ("pi", "mu", "var"):
            close(name, getattr(mixture, name), case[name])
        joint, shares, density = _densities(mixture, case["x_test"])
    close("score", joint, case["weighted_log_prob"])
    close("score", shares, case["log_resp"])
    close("score", density, case["score"])
    np.testing.assert_array_equal(joint.argmax(1), case["component"])


def check_kmeans(path):
    case = np.load(path)
    rows = place(case["x"])
    found = kmeans.cluster(
        rows,
        case["init_centers"],
        tol=float(case["tol"]),
        max_iter=int(case["max_iter"]),
    )
    assert found.num_iters == case["n_iter"]
    np.testing.assert_allclose(found.centres, case["centers"], rtol=0, atol=1e-4)
    labels, squared = kmeans.assign(rows, found.centres)
    np.testing.assert_array_equal(labels, case["labels"])
    np.testing.assert_allclose(squared.sum(), case["inertia"], rtol=1e-5)


def _layout(value):
    """Shapes in place of arrays."""
    if isinstance(value, dict):
        return {key: _layout(item) for key, item in value.items()}
    return list(value.shape) if isinstance(value, np.ndarray) else value


def check_file(path):
    """What we write for one class is laid out as published."""
    expected = json.loads(path.read_text())["file"]
    k, d = expected["n_components"], expected["n_features"]
    shape = (1, k, d)
    mixtures = Mixtures(
        mu=jnp.zeros(shape),
        var=jnp.ones(shape),
        pi=jnp.full(shape[:2], 1 / k),
        valid=jnp.ones(1, bool),
    )
    with tempfile.TemporaryDirectory() as folder:
        target = pathlib.Path(folder) / "prototypes"
        write_mixtures(target, mixtures, eps=expected["eps"])
        found = read_torch_file(target / "0_gmm.pth")
    assert _layout(found) == expected


CHECKERS = {
    "gmm_em_step*.npz": check_em_step,
    "gmm_kmeans_init*.npz": check_kmeans_init,
    "gmm_fit*.npz": check_fit,
    "gmm_state_dict*.json": check_file,
    "stm_kmeans*.npz": check_kmeans,
}
