import json

import numpy as np
import pytest

from sfda_jax.pseudo_labels import candidates
from sfda_jax.pseudo_labels.stable_sets import stable_sets
from sfda_jax.types import IGNORE


def _first(labels, confidence, *, num_classes=3, portion=0.5):
    ids = [str(i) for i in range(len(labels))]
    return candidates.first_candidates(
        [(ids, (labels, confidence))], num_classes=num_classes, portion=portion
    )


def _ramp(n=4, size=(4, 4)):
    """Class 0 everywhere, later images surer."""
    labels = np.zeros((n, *size), np.uint8)
    confidence = np.linspace(0, 1, labels.size, dtype=np.float32)
    return labels, confidence.reshape(labels.shape)


def test_meta_threshold_is_of_the_same_values():
    labels, confidence = _ramp(5)  # 80 values: ranks 40 and 72
    found = stable_sets(_first(labels, confidence), share=0.5)
    assert found.thresholds[0] == confidence.ravel()[72]
    assert found.candidates.thresholds[0] == confidence.ravel()[40]
    masks = dict(found.mixup())
    assert set(masks) == {"4"}  # the others are 100 % ignored
    assert (masks["4"] != IGNORE).sum() == 8
    np.testing.assert_array_equal(masks["4"] == 0, confidence[4] >= confidence[4, 2, 0])


def test_mask_never_has_more_than_the_candidates():
    labels, confidence = _ramp()
    found = stable_sets(_first(labels, confidence), portion=0.1)
    for name, mask in found.mixup():
        np.testing.assert_array_equal(mask, found.candidates.kept[int(name)])


def test_stable_images_are_ranked_by_labelled_pixels_and_stay_in_order():
    labels, confidence = _ramp(6)
    found = stable_sets(_first(labels, confidence), share=0.9)
    counts = [(mask != IGNORE).sum() for mask in found.candidates.kept]
    assert counts == [0, 0, 0, 16, 16, 16]
    assert found.stable.tolist() == [3, 4, 5, 0, 1]  # int(5.4)
    for name, mask in found.labels():
        np.testing.assert_array_equal(mask, found.candidates.kept[int(name)])


def test_share_may_come_to_no_image():
    found = stable_sets(_first(*_ramp(4)), share=0.2)
    assert found.stable.size == 0
    assert not list(found.labels())
    assert found.summary(256)["stable"] == []


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_few_entries_are_clamped_to_the_surest(count):
    labels, confidence = _ramp(2)
    labels[1].ravel()[-count:] = 1
    found = stable_sets(_first(labels, confidence), max_ignored=1.0)
    assert found.thresholds[1] == confidence.max()
    assert sum((mask == 1).sum() for _, mask in found.mixup()) == 1


def test_absent_class_neither_fails_nor_shifts_the_others():
    labels, confidence = _ramp()
    labels[2:] = 2
    found = stable_sets(_first(labels, confidence))
    assert found.thresholds[1] == 0
    # 32 values each, rank 29.
    flat = confidence.ravel()
    assert found.thresholds[[0, 2]].tolist() == [flat[29], flat[32 + 29]]


def test_more_than_the_bound_is_left_out_and_the_bound_itself_kept():
    labels, confidence = _ramp(2, size=(10, 10))
    confidence[0] = np.linspace(0, 0.5, 100).reshape(10, 10)
    confidence[1] = np.linspace(0.5, 1, 100).reshape(10, 10)
    kept = [0.8, 0.79]
    for bound, stored in zip(kept, [["1"], []], strict=True):
        found = stable_sets(_first(labels, confidence), max_ignored=bound)
        assert [name for name, _ in found.mixup()] == stored


def test_later_rounds_go_by_agreement():
    # Class 1 in ten images, of which image i keeps i + 1 rows of ten.
    old = np.zeros((10, 10, 10), np.uint8)
    new = np.zeros_like(old)
    old[:] = 1
    for i, labels in enumerate(new):
        labels[: i + 1] = 1
    ids = [str(i) for i in range(10)]
    found = candidates.next_candidates(
        [(ids, (new, None))], dict(zip(ids, old, strict=True)).get,
        stride=2, num_classes=3,
    )  # fmt: skip
    sets = stable_sets(found, share=0.2)
    np.testing.assert_allclose(sets.thresholds, [0, 1.0, 0], atol=1e-6)
    masks = dict(sets.mixup())
    assert (masks["9"] == 1).all()
    # Class 0 was nowhere before: its agreement is 0, and so is its threshold.
    assert (masks["0"] == 0).sum() == 20
    assert (masks["0"] == IGNORE).sum() == 5
    # Its stored rows all hold class 1, sure enough for a candidate, not for a mask.
    assert (found.kept[8] == 1).all()
    assert "8" not in masks
    assert sets.stable.tolist() == [5, 6]  # class 1 was dropped from 0 to 4


def test_summary_is_json_and_feeds_the_index():
    labels, confidence = _ramp()
    labels[2:, 2:] = 2
    found = stable_sets(_first(labels, confidence), share=0.5)
    full_area = 16 * 25
    meta = found.summary(full_area)
    assert json.loads(json.dumps(meta)) == meta
    assert meta["ids"] == ["0", "1", "2", "3"]
    assert len(meta["pastable"]) == 4
    files = candidates.CandidateIndex(meta).files((0, 1, 2))
    masks = dict(found.mixup())
    for c, listed in files.items():
        enough = [n for n, m in masks.items() if (m == c).sum() * 25 >= 50]
        assert [name for _, name in listed] == enough
    assert any(files.values())
    assert [entry["position"] for entry in meta["stable"]] == found.stable.tolist()
    for entry in meta["stable"]:
        mask = found.candidates.kept[entry["position"]]
        enough = [c for c in range(3) if (mask == c).sum() * 25 >= 50]
        assert entry["classes"] == enough
        assert entry["id"] == str(entry["position"])
