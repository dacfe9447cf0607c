"""Thresholds by rank: exact, approximate, in any order; labels by ratio."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sfda_jax.errors import ConfigError, TrainingError
from sfda_jax.ops.processes import total
from sfda_jax.pseudo_labels.class_balanced import (
    Selector,
    assign_hard,
    assign_lrent,
    sampled_places,
)
from sfda_jax.pseudo_labels.selector import Selector as Protocol

SIZE = (13, 17)
ACCUMULATORS = ("exact_spool", "exact_radix", "hist")


def scores_of(count, num_classes=5, *, seed=0, sharpness=3.0):
    """Softmax maps in which the last class never wins."""
    rng = np.random.default_rng(seed)
    logits = sharpness * rng.normal(size=(count, *SIZE, num_classes))
    logits[..., -1] -= 100
    return np.asarray(jax.nn.softmax(logits.astype(np.float32)))


def run(selector, scores, scratch, *, batch_size=2, order=None):
    state = selector.init(scores.shape[-1])
    order = np.arange(len(scores)) if order is None else order
    for _ in range(selector.num_measures):
        for start in range(0, len(scores), batch_size):
            batch = scores[order[start : start + batch_size]]
            measured = jax.device_get(selector.measure(jnp.asarray(batch)))
            state = selector.update(state, measured, scratch=scratch)
        state = selector.settle(state, scratch=scratch, total=total)
    return state


def lists_of(scores, stride):
    """As published: one list per class, every `stride`-th pixel of it in an image."""
    lists = [[] for _ in range(scores.shape[-1])]
    for image in scores:
        labels = image.argmax(-1).ravel()
        confidence = image.max(-1).ravel()
        for c, values in enumerate(lists):
            values.extend(confidence[labels == c][::stride].tolist())
    return lists


def by_sorting(scores, *, portion, stride, extra_zero, policy):
    lists = lists_of(scores, stride)
    if policy == "global":
        zeros = [0.0] * (len(lists) + 1) * extra_zero
        lists = [[*itertools.chain(*lists), *zeros]] * len(lists)
    elif extra_zero:
        lists = [[0.0, *values] if values else [] for values in lists]
    found = []
    for values in lists:
        rank = int(np.floor(len(values) * portion))
        found.append(sorted(values, reverse=True)[rank - 1] if rank else 0.0)
    return np.array([k or 1.0 for k in found], np.float32)


@pytest.mark.parametrize("accumulate", ["exact_spool", "exact_radix"])
@pytest.mark.parametrize("policy", ["class", "global"])
@pytest.mark.parametrize("extra_zero", [True, False])
@pytest.mark.parametrize("shift", [0.0, -0.7], ids=["probabilities", "negative"])
def test_exact_equals_sorting(tmp_path, accumulate, policy, extra_zero, shift):
    scores = scores_of(5) + np.float32(shift)
    for portion, stride in [(0.0, 4), (0.01, 4), (0.2, 3), (0.3, 1)]:
        settings = {"policy": policy, "portion": portion, "stride": stride}
        expected = by_sorting(scores, extra_zero=extra_zero, **settings)
        selector = Selector(accumulate=accumulate, extra_zero=extra_zero, **settings)
        state = run(selector, scores, tmp_path)
        np.testing.assert_array_equal(selector.thresholds(state), expected)


def test_radix_orders_values_of_any_sign(tmp_path):
    values = np.array([-1e30, -2.5, -0.0, 0.0, 1e-40, 0.5, 1.0, 3e38], np.float32)
    image = {"labels": np.zeros((1, 1, 8), np.uint8), "confidence": values[None, None]}
    expected = [1, 1, 1, 1, 1e-40, 0.5, 1, 3e38]  # 0 and less: none
    for rank, value in zip(range(8, 0, -1), expected, strict=True):
        selector = Selector(
            portion=rank / 8, stride=1, extra_zero=False, accumulate="exact_radix"
        )
        state = selector.init(1)
        for _ in range(2):
            state = selector.update(state, image, scratch=tmp_path)
            state = selector.settle(state, scratch=tmp_path, total=total)
        assert selector.thresholds(state)[0] == np.float32(value)


@pytest.mark.parametrize("sharpness", [0.5, 3.0, 30.0])
@pytest.mark.parametrize("bits", [4, 12])
def test_histogram_stays_within_its_bound(tmp_path, sharpness, bits):
    scores = scores_of(5, sharpness=sharpness)
    for portion in (0.05, 0.2, 0.5, 0.9):
        settings = {"portion": portion, "stride": 1}
        exact = Selector(accumulate="exact_radix", **settings)
        hist = Selector(accumulate="hist", mantissa_bits=bits, **settings)
        state = run(hist, scores, tmp_path)
        k = exact.thresholds(run(exact, scores, tmp_path))
        below = k - hist.thresholds(state)
        summary = hist.summary(state)
        assert (below >= 0).all()
        assert (below <= 2.0**-bits * (1 - k) + 2.0**-24).all()
        assert (below <= np.array(summary["threshold_error"]) + 2.0**-24).all()
        assert summary["samples_in_bin"][0] >= 1
        assert max(summary["rank_error"]) <= 1


def test_histogram_knows_confidence_one_exactly_and_flags_what_exceeds_it(tmp_path):
    scores = np.zeros((1, 2, 4, 2), np.float32)
    scores[..., 0] = np.array([1, 1, 1, 1, 0.5, 1.2, 1.1, 0.25]).reshape(2, 4)
    selector = Selector(accumulate="hist", portion=0.5, stride=1)
    state = run(selector, scores, tmp_path)
    assert selector.thresholds(state)[0] == 1
    assert selector.summary(state)["scores_above_one"] == [2, 0]


def test_histogram_refuses_scores_it_cannot_tell_from_nothing(tmp_path):
    scores = scores_of(2) * np.float32(1e-5)
    exact = Selector(accumulate="exact_radix")
    assert exact.thresholds(run(exact, scores, tmp_path)).min() < 1e-5
    with pytest.raises(ConfigError, match="too small for"):
        run(Selector(accumulate="hist"), scores, tmp_path)


@pytest.mark.parametrize("accumulate", ACCUMULATORS)
def test_order_and_batches_change_nothing(tmp_path, accumulate):
    scores = scores_of(6)
    selector = Selector(accumulate=accumulate, portion=0.3)
    one = run(selector, scores, tmp_path / "a", batch_size=1)
    order = np.array([4, 1, 5, 0, 3, 2])
    other = run(selector, scores, tmp_path / "b", batch_size=4, order=order)
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name])
    assert selector.summary(one) == selector.summary(other)


@pytest.mark.parametrize("accumulate", ACCUMULATORS)
def test_a_saved_state_goes_on(tmp_path, accumulate):
    """What was done after the state was saved is done again, and counts once."""
    scores = scores_of(4)
    selector = Selector(accumulate=accumulate, portion=0.3)
    expected = run(selector, scores, tmp_path / "whole")
    measured = [
        jax.device_get(selector.measure(jnp.asarray(image[None]))) for image in scores
    ]
    scratch, state = tmp_path / "cut", selector.init(scores.shape[-1])
    for _ in range(selector.num_measures):
        for index, image in enumerate(measured):
            saved = {name: value.copy() for name, value in state.items()}
            selector.update(state, image, scratch=scratch)
            selector.update(state, measured[-1], scratch=scratch)
            for name, value in state.items():  # nothing was changed in place
                np.testing.assert_array_equal(value, saved[name], err_msg=str(index))
            state = selector.update(saved, image, scratch=scratch)
        selector.settle(state, scratch=scratch, total=total)
        state = selector.settle(state, scratch=scratch, total=total)
    for name, value in expected.items():
        np.testing.assert_array_equal(state[name], value)


def test_a_lost_spool_is_an_error(tmp_path):
    scores = scores_of(2)
    selector = Selector()
    measured = jax.device_get(selector.measure(jnp.asarray(scores)))
    state = selector.update(selector.init(5), measured, scratch=tmp_path)
    (tmp_path / "confidences.bin").write_bytes(b"12345")
    with pytest.raises(TrainingError, match="holds 1 confidences, but"):
        selector.update(state, measured, scratch=tmp_path)
    with pytest.raises(TrainingError, match="holds 1 confidences, but"):
        selector.settle(state, scratch=tmp_path, total=total)


def test_nothing_measured_leaves_no_class_a_threshold(tmp_path):
    for accumulate in ACCUMULATORS:
        selector = Selector(accumulate=accumulate, k_absent=None)
        state = selector.init(3)
        for _ in range(selector.num_measures):
            state = selector.settle(state, scratch=tmp_path, total=total)
        np.testing.assert_array_equal(selector.thresholds(state), np.ones(3))
        assert selector.summary(state)["sizes"] == [0, 0, 0]


def test_absent_classes_take_the_value_set_or_the_mean(tmp_path):
    scores = scores_of(3)
    fixed = Selector(k_absent=0.5)
    assert fixed.thresholds(run(fixed, scores, tmp_path))[-1] == 0.5
    mean = Selector(k_absent=None)
    thresholds = mean.thresholds(run(mean, scores, tmp_path))
    np.testing.assert_allclose(thresholds[-1], thresholds[:-1].mean(), rtol=1e-6)


def test_sizes(tmp_path):
    scores = scores_of(3)
    pixels = np.bincount(scores.argmax(-1).ravel(), minlength=5)
    samples = [len(values) for values in lists_of(scores, 4)]
    published = Selector()
    found = published.summary(run(published, scores, tmp_path))
    assert found["sizes"] == [n + 1 if n else 0 for n in samples]
    assert found["samples"] == samples and found["pixels"] == pixels.tolist()
    crst = Selector(extra_zero=False, sizes="pixels")
    assert crst.summary(run(crst, scores, tmp_path))["sizes"] == pixels.tolist()
    one = Selector(policy="global")
    assert one.summary(run(one, scores, tmp_path))["sizes"] == [sum(samples) + 6] * 5


def test_rank_of_the_paper(tmp_path):
    scores = np.zeros((1, 1, 7, 2), np.float32)
    scores[..., 0] = np.linspace(0.9, 0.3, 7)
    settings = {"portion": 0.4, "stride": 1, "extra_zero": False}
    for rank, expected in (("floor", 0.8), ("round", 0.7)):  # 7 × 0.4 = 2.8
        selector = Selector(rank=rank, **settings)
        state = run(selector, scores, tmp_path / rank)
        np.testing.assert_allclose(selector.thresholds(state)[0], expected, rtol=1e-6)


def test_every_fourth_pixel_of_each_class_from_its_first():
    labels = np.array([[1, 0, 1, 1, 1], [1, 0, 2, 1, 0]], np.uint8)
    places = sampled_places(labels, np.array([3, 6, 1, 0]), stride=2)
    assert places.tolist() == [1, 9, 0, 3, 5, 7]


def test_kept_pixels_follow_the_portion(tmp_path):
    scores = scores_of(8, sharpness=4.0)
    for accumulate in ACCUMULATORS:
        selector = Selector(portion=0.3, stride=1, accumulate=accumulate)
        thresholds = selector.thresholds(run(selector, scores, tmp_path))
        labels = selector.propose(jnp.asarray(scores), jnp.asarray(thresholds))
        kept = np.bincount(np.asarray(labels["labels"]).ravel(), minlength=256)[:4]
        pixels = np.bincount(scores.argmax(-1).ravel(), minlength=5)[:4]
        np.testing.assert_allclose(kept / pixels, 0.3, atol=0.03)


def test_labels_by_ratio():
    scores = jnp.array([[[[0.6, 0.3], [0.5, 0.25], [0.2, 0.2], [0.4, 0.05]]]])
    labels = assign_hard(scores, jnp.array([0.8, 0.25]))
    # the ratio decides, a score at its threshold is kept, ties go to the first
    assert labels.tolist() == [[[1, 1, 255, 255]]]
    assert assign_hard(scores, jnp.array([0.5, 0.25])).tolist() == [[[0, 0, 255, 255]]]


def test_soft_labels():
    probs = jnp.array([[[[0.9, 0.1], [0.55, 0.45], [0.0, 0.0]]]])
    thresholds = jnp.array([0.8, 0.4])
    y, labels = assign_lrent(probs, thresholds, alpha=0.25)
    z = (np.asarray(probs[0, 0, :2]) / np.asarray(thresholds)) ** 4
    np.testing.assert_allclose(y[0, 0, :2], z / z.sum(1, keepdims=True), rtol=1e-5)
    assert labels.tolist() == [[[0, 1, 255]]]
    assert (y[0, 0, 2] == 0).all()
    selector = Selector(soft_alpha=0.25)
    proposed = jax.jit(selector.propose)(probs, thresholds)
    assert proposed["soft"].dtype == jnp.float16
    np.testing.assert_allclose(proposed["soft"], y, atol=1e-3)
    np.testing.assert_array_equal(proposed["labels"], labels)


def test_soft_labels_become_hard_as_alpha_falls():
    probs = jnp.asarray(scores_of(2))
    thresholds = jnp.array([0.7, 0.6, 0.8, 0.5, 1.0])
    hard = assign_hard(probs, thresholds)
    _, labels = assign_lrent(probs, thresholds, alpha=1e-3)
    assert (np.asarray(hard) == np.asarray(labels)).mean() > 0.99
    _, all_kept = assign_lrent(probs, thresholds, alpha=1.0)
    assert (np.asarray(all_kept) < 255).all()


def test_follows_the_protocol():
    for accumulate, measures in zip(ACCUMULATORS, (1, 2, 1), strict=True):
        selector = Selector(accumulate=accumulate)
        assert isinstance(selector, Protocol)
        assert selector.num_measures == measures and not selector.sequential


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"portion": 1.2}, "portion is 1.2"),
        ({"stride": 0}, "stride is 0"),
        ({"k_absent": 0.0}, "k_absent is 0.0"),
        ({"mantissa_bits": 24}, "mantissa_bits is 24"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ConfigError, match=message):
        Selector(**settings)


def test_nan_is_refused(tmp_path):
    scores = scores_of(1).copy()
    scores[0, 0, 0] = np.nan
    with pytest.raises(TrainingError, match="not finite"):
        run(Selector(), scores, tmp_path)
