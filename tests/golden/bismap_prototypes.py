"""BiSMAP's prototypes: which features are collected, which labels they assign."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from sfda_jax.pseudo_labels.density_threshold import Selector
from sfda_jax.pseudo_labels.feature_collect import (
    RowPool,
    chosen_cells,
    correct_cells,
)
from sfda_jax.pseudo_labels.gaussian_mixtures import Mixtures
from sfda_jax.pseudo_labels.prototypes import flip_mean, pixel_log_densities
from sfda_jax.types import IGNORE
from tests.golden.published_weights import nhwc

SYSTEM = "bismap"
PUBLISHED_IGNORE = 250


def recorded_permutations(case):
    """`permutation` that gives what was recorded, one after the other."""
    ends = np.cumsum(case["perm_lengths"])
    pieces = iter(np.split(case["perms"], ends[:-1]))

    def permutation(count):
        piece = next(pieces)
        assert len(piece) == count
        return piece

    return permutation, pieces


def check_collect(path):
    case = np.load(path)
    permutation, left = recorded_permutations(case)
    classes = case["class_ids"].tolist()
    # class_weights has one entry per class of the space
    portions = {c: float(case["class_weights"][c]) for c in classes}
    pools = {c: RowPool(10**6) for c in classes}
    for batch in range(sum(key.startswith("labels") for key in case.files)):
        features = nhwc(case[f"feat{batch}"])
        if f"feat_flipped{batch}" in case.files:
            features = flip_mean(features, nhwc(case[f"feat_flipped{batch}"]))
        labels = np.where(
            case[f"labels{batch}"] == PUBLISHED_IGNORE, IGNORE, case[f"labels{batch}"]
        )
        cells = correct_cells(
            jnp.asarray(labels, jnp.uint8), nhwc(case[f"logits{batch}"])
        )
        rows = np.asarray(features).reshape(-1, features.shape[-1])
        for class_, places in chosen_cells(
            np.asarray(cells), portions, permutation=permutation
        ):
            pools[class_].add_next(rows[places])
    assert next(left, None) is None
    found = [pools[c].rows() for c in classes]
    assert [len(rows) for rows in found] == case["collected_counts"].tolist()
    joined = np.concatenate([rows for rows in found if len(rows)])
    np.testing.assert_array_equal(joined, case["collected"])


def check_overflow(path):
    """Published pools start anew once full; only the first one is ever read."""
    case = np.load(path)
    permutation, left = recorded_permutations(case)
    size, portions = int(case["pool_size"]), {0: float(case["weight"])}
    files = [RowPool(size)]
    for push in range(sum(key.startswith("push") for key in case.files)):
        rows = case[f"push{push}"]
        cells = np.zeros((1, 1, len(rows)), np.uint8)
        for _, places in chosen_cells(cells, portions, permutation=permutation):
            files[-1].add_next(rows[places])
        if files[-1].offered > size:
            files.append(RowPool(size))
    assert next(left, None) is None
    files = [pool.rows() for pool in files if pool.offered]
    assert len(files) == case["n_files"]
    assert [len(rows) for rows in files] == case["file_rows"].tolist()
    np.testing.assert_array_equal(files[0], case["file0"])


def mixtures_of(case):
    """The stored prototypes; `class_ids` are those that exist."""
    valid = np.isin(np.arange(len(case["pi"])), case["class_ids"])
    return Mixtures(
        mu=jnp.asarray(case["mu"]),
        var=jnp.asarray(case["var"]),
        pi=jnp.asarray(case["pi"]),
        valid=jnp.asarray(valid),
    )


def labelled(scores, threshold):
    """Labels of log-densities, as a round makes them."""
    selector = Selector(absolute=(threshold,))
    state = selector.init(scores.shape[-1])
    limits = jnp.asarray(selector.thresholds(state))
    proposed = jax.device_get(selector.propose(scores, limits))
    return selector.select(state, proposed)[1][0]


def check_assign(path):
    case = np.load(path)
    size = tuple(case["image_hw"].tolist())
    features = nhwc(case["feat"])
    if "feat_flipped" in case.files:
        features = flip_mean(features, nhwc(case["feat_flipped"]))
    assign = jax.jit(functools.partial(pixel_log_densities, size=size))
    scores = assign(mixtures_of(case), features)
    recorded = case["log_pdf"].reshape(1, *size, -1)
    np.testing.assert_allclose(scores, recorded, rtol=2e-5, atol=5e-3)
    best = recorded.max(axis=-1)[0]
    for threshold, published in zip(
        case["thresholds"].tolist(), case["pseudo_labels"], strict=True
    ):
        expected = np.where(published == PUBLISHED_IGNORE, IGNORE, published)
        # exact on the recorded log-densities, ties and equality included
        found = labelled(jnp.asarray(recorded), threshold)
        np.testing.assert_array_equal(found, expected)
        unsure = (np.abs(best - threshold) < 0.02) | (case["margin"] < 0.02)
        found = labelled(scores, threshold)
        np.testing.assert_array_equal(found[~unsure], expected[~unsure])


CHECKERS = {
    "maps_feature_collect_*.npz": check_collect,
    "maps_feature_pool_overflow*.npz": check_overflow,
    "maps_pseudo_label*.npz": check_assign,
}
