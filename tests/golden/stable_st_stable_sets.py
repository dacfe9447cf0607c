"""Recorded cases of SND's stable sets, first and later round."""

import jax
import numpy as np

from sfda_jax.pseudo_labels import candidates, ranking
from sfda_jax.pseudo_labels.stable_sets import stable_sets
from tests.golden.stable_st_dtst import check_tcr_candidate

SYSTEM = "stable_st"

_NOT_STORED = 254


def check_snd_candidate(path):
    check_tcr_candidate(path)  # the same arrays, and more
    data = np.load(path)
    settings = {"num_classes": int(data["num_classes"]), "portion": float(data["topk"])}
    first = candidates.first_candidates(
        _predictions(data["logits_init"], 4), **settings
    )
    found = _check_sets(first, data, "init")
    np.testing.assert_array_equal(found.thresholds, data["init_meta_thresholds"])
    previous = dict(zip(first.ids, first.predictions, strict=True))
    again = candidates.next_candidates(
        _predictions(data["logits_next"], 1), previous.get, stride=2, **settings
    )
    _check_sets(again, data, "next")


def _predictions(logits, stride):
    for i, image in enumerate(logits):
        probs = jax.nn.softmax(np.moveaxis(image[None, :, ::stride, ::stride], 1, -1))
        labels = np.asarray(probs.argmax(-1)).astype(np.uint8)
        yield [str(i)], (labels, np.asarray(probs.max(-1)))


def _check_sets(candidates_, data, round_):
    found = stable_sets(candidates_, share=float(data["meta_topk"]))
    maps = {"mixup": dict(found.mixup()), "": dict(found.labels())}
    for name, suffix, flag in (("mixup", "_mixup", "_saved"), ("", "", "_selected")):
        expected = data[f"{round_}_meta_val{suffix}"]
        flags = data[f"{round_}_meta_val{suffix}{flag}"]
        assert [i in maps[name] for i in candidates_.ids] == flags.tolist()
        for i, mask in zip(candidates_.ids, expected, strict=True):
            result = maps[name].get(i, np.full(mask.shape, _NOT_STORED, np.uint8))
            np.testing.assert_array_equal(ranking.enlarge(result, mask.shape), mask)
    return found


CHECKERS = {"snd_candidate*.npz": check_snd_candidate}
