"""Thresholds, pseudo-labels and rare classes of CBST and CRST."""

import pathlib
import tempfile

import jax.numpy as jnp
import numpy as np

from sfda_jax.ops.processes import total
from sfda_jax.pseudo_labels.class_balanced import Selector, assign_hard, assign_lrent
from sfda_jax.pseudo_labels.rare_classes import classes_below, rare_classes

SYSTEM = "cbst_crst"


def _measured(selector: Selector, num_classes: int, batches):
    """The settled state after all passes; `batches` are what `measure` returns."""
    state = selector.init(num_classes)
    with tempfile.TemporaryDirectory() as folder:
        scratch = pathlib.Path(folder)
        for _ in range(selector.num_measures):
            for measured in batches:
                state = selector.update(state, measured, scratch=scratch)
            state = selector.settle(state, scratch=scratch, total=total)
    return state


def _same_sizes(found, expected, sizes):
    """The originals' sorts are not stable: which of equal classes is chance."""
    assert len(found) == len(expected)
    np.testing.assert_array_equal(
        sorted(sizes[list(found)]), sorted(sizes[list(expected)])
    )


def check_cbst_thresholds(path):
    case = np.load(path)
    scores = case["probs"]
    if "prior" in case:
        scores = case["prob_times_prior"]
        product = case["probs"] * case["prior"].astype(np.float32)
        np.testing.assert_allclose(product, scores, rtol=1e-6)
    scores = scores.transpose(0, 2, 3, 1)
    num_classes, table = int(case["num_classes"]), case["trainid_to_labelid"]
    for accumulate in ("exact_spool", "exact_radix"):
        selector = Selector(
            portion=float(case["portion"]),
            policy={"cb": "class"}.get(str(case["policy"]), str(case["policy"])),
            stride=int(case["ds_rate"]),
            accumulate=accumulate,
        )
        measured = selector.measure(jnp.asarray(scores))
        measured = {name: np.asarray(value) for name, value in measured.items()}
        best = case[f"argmax_{'prior' if 'prior' in case else 'noprior'}_labelid"]
        np.testing.assert_array_equal(table[measured["labels"]], best)
        state = _measured(selector, num_classes, [measured])
        # 0 stands for none, which labelling takes for 1
        expected = np.where(case["cls_thresh"] == 0, 1, case["cls_thresh"])
        np.testing.assert_array_equal(selector.thresholds(state), expected)
        sizes = np.array(selector.summary(state)["sizes"])
        np.testing.assert_array_equal(sizes, case["cls_size"])
    thresholds = selector.thresholds(state)
    labels = selector.propose(jnp.asarray(scores), jnp.asarray(thresholds))["labels"]
    np.testing.assert_array_equal(labels, case["pseudo_trainid"])
    labels = np.asarray(labels)
    ignored = labels == 255
    label_ids = np.where(ignored, 0, table[np.where(ignored, 0, labels)])
    np.testing.assert_array_equal(label_ids, case["pseudo_labelid"])
    priority, smallest = rare_classes(
        sizes, fraction=float(case["mine_thresh"]), number=int(case["mine_id_number"])
    )
    np.testing.assert_array_equal(priority, case["mine_id_priority"])
    _same_sizes(smallest, case["mine_id"], sizes)


def check_crst_thresholds(path):
    case = np.load(path)
    num_classes = int(case["num_classes"])
    classes = np.arange(num_classes, dtype=np.uint8)
    image = {
        "labels": np.repeat(classes, case["conf_len"])[None, None],
        "confidence": case["conf_flat"][None, None],
    }
    for accumulate in ("exact_spool", "exact_radix"):
        # the lists are sub-sampled already
        selector = Selector(
            portion=float(case["portion"]),
            stride=1,
            extra_zero=False,
            sizes="pixels",
            accumulate=accumulate,
        )
        state = _measured(selector, num_classes, [image])
        np.testing.assert_array_equal(selector.thresholds(state), case["cls_thresh"])
        found = selector.summary(state)
        np.testing.assert_array_equal(found["ranks"], case["cls_sel_size"])
        np.testing.assert_array_equal(found["sizes"], case["conf_len"])
    sizes = case["pred_cls_num"]
    _same_sizes(classes_below(sizes, float(case["mine_port"])), case["mine_id"], sizes)
    if sizes.any():
        number = int(case["rare_cls_num"])
        _, smallest = rare_classes(sizes, fraction=0.0, number=number)
        _same_sizes(smallest, case["rare_id"], sizes)


def check_selection(path):
    case = np.load(path)
    probs, thresholds = jnp.asarray(case["probs"]), jnp.asarray(case["cls_thresh"])
    alpha = float(case["lr_weight_ent"])
    if not alpha:
        labels = assign_hard(probs, thresholds)
        np.testing.assert_array_equal(labels, case["pseudo_trainid"])
        return
    soft, labels = assign_lrent(probs, thresholds, alpha=alpha)
    np.testing.assert_allclose(soft, case["soft_label"], rtol=0, atol=1e-6)
    z = (case["probs"].astype(np.float64) / case["cls_thresh"]) ** (1 / alpha)
    clear = np.abs(np.log(z.sum(-1))) >= 1e-5
    assert clear.any()
    expected = case["pseudo_trainid"][clear]
    np.testing.assert_array_equal(np.asarray(labels)[clear], expected)
    kept = clear & (case["pseudo_trainid"] != 255)
    best = np.argmax(np.asarray(soft), axis=-1)
    np.testing.assert_array_equal(best[kept], case["weighted_argmax"][kept])


CHECKERS = {
    "cbst_kc_*.npz": check_cbst_thresholds,
    "crst_kc_*.npz": check_crst_thresholds,
    "crst_select_*.npz": check_selection,
}
