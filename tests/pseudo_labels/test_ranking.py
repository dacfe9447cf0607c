import numpy as np

from sfda_jax.pseudo_labels import candidates, ranking
from sfda_jax.types import IGNORE


def test_rank_is_half_to_even():
    values = np.arange(10.0, 15.0)
    assert ranking.value_at(values, 0.5) == 12  # round(2.5) = 2
    assert ranking.value_at(values[:3], 0.5) == 12  # round(1.5) = 2
    assert ranking.value_at(values[:1], 0.5) == 10
    assert ranking.value_at(values, 1.0) == 14
    assert ranking.value_at(values[:0], 0.5) == 0


def test_agreement_is_iou():
    new = np.array([[0, 0], [1, 1]], np.uint8)
    old = np.array([[0, 1], [1, 1]], np.uint8)
    iou = ranking.agreement(new, old, num_classes=3)
    np.testing.assert_allclose(iou, [1 / 2, 2 / 3, 0], atol=1e-7)


def test_absent_images_do_not_lower_a_threshold():
    iou = np.array([[0.0, 0.5], [0.8, 0.7], [0.6, 0.0]])
    np.testing.assert_allclose(ranking.agreement_thresholds(iou), [0.8, 0.7])


def test_candidates_and_their_index():
    labels = np.zeros((2, 4, 4), np.uint8)
    labels[1] = 1
    confidence = np.linspace(0, 1, 32, dtype=np.float32).reshape(2, 4, 4)
    found = candidates.first_candidates(
        [(["b", "a"], (labels, confidence))], num_classes=3
    )
    assert (found.kept[0] == IGNORE).sum() == 8
    meta = found.summary(full_area=16 * 16)
    assert meta["predicted"] == [[1, 0, 0], [0, 1, 0]]
    np.testing.assert_allclose(meta["coverage"], [0.5, 0.5, 0])
    files = candidates.CandidateIndex(meta).files((0, 1, 2))
    assert files == {0: [(0, "b")], 1: [(1, "a")], 2: []}

    stored = dict(zip(found.ids, found.predictions, strict=True))
    big = labels.repeat(4, 1).repeat(4, 2)
    big[0, :8] = 1
    again = candidates.next_candidates(
        [(["b", "a"], (big, None))], stored.get, stride=2, num_classes=3
    )
    np.testing.assert_allclose(again.thresholds, [0.5, 1.0, 0], atol=1e-6)
    assert again.predictions[0].shape == (8, 8)
    # An image that lost or gained a class agrees with itself by 0 there.
    assert set(np.unique(again.kept[0])) == {0, IGNORE}


def test_enlarge():
    small = np.array([[1, 2]], np.uint8)
    assert ranking.enlarge(small, (2, 4)).tolist() == [[1, 1, 2, 2]] * 2
