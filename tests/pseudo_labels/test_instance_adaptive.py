import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sfda_jax.data.torch_order import torch_randperm
from sfda_jax.errors import ConfigError, TrainingError
from sfda_jax.pseudo_labels import constant, instance_adaptive
from sfda_jax.pseudo_labels.inference import Inference
from sfda_jax.pseudo_labels.instance_adaptive import (
    NUM_VALUES,
    Selector,
    confidence_histogram,
    instance_thresholds,
    moved_thresholds,
)
from sfda_jax.pseudo_labels.label_pass import make_labels
from sfda_jax.pseudo_labels.selector import Selector as Protocol
from sfda_jax.types import IGNORE
from tests.methods.stand_ins import (
    Context,
    make_images,
    make_model,
    make_network,
    make_task,
)


def scores(num_images, num_classes=5, *, seed=0, sharpness=3.0, size=(6, 7)):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(num_images, *size, num_classes)) * sharpness
    return jax.nn.softmax(jnp.asarray(logits, jnp.float32))


def run(selector, probs, batch_size, state=None):
    """The last state and all labels of a pass."""
    state = state or selector.init(probs.shape[-1])
    propose, labels = jax.jit(selector.propose), []
    for first in range(0, len(probs), batch_size):
        thresholds = jnp.asarray(selector.thresholds(state))
        proposed = propose(probs[first : first + batch_size], thresholds)
        state, found = selector.select(state, jax.device_get(proposed))
        assert found.dtype == np.uint8
        labels.append(found)
    return state, np.concatenate(labels)


def counts_of(labels, confidence, num_classes):
    histogram = confidence_histogram(labels, confidence, num_classes)
    return np.asarray(histogram).sum(axis=0, dtype=np.int64)


@pytest.mark.parametrize("selector", [Selector(), constant.Selector()])
def test_protocol(selector):
    assert isinstance(selector, Protocol)
    assert selector.num_measures == 0


def test_histogram_is_per_image_and_of_float16_values():
    confidence = np.float32([[0.5, 0.5001, 1.0], [0.25, 0.75, 0.75]])[:, None]
    labels = np.uint8([[0, 0, 1], [2, 1, 1]])[:, None]
    found = confidence_histogram(jnp.asarray(labels), jnp.asarray(confidence), 3)
    assert found.shape == (2, 3, NUM_VALUES)
    values = np.arange(NUM_VALUES, dtype=np.uint16).view(np.float16)
    filled = [
        (image, label, float(values[bits]), found[image, label, bits].item())
        for image, label, bits in np.argwhere(found)
    ]
    assert filled == [  # 0.5001 lies nearer to 0.5 than to the next float16
        *[(0, 0, 0.5, 2), (0, 1, 1.0, 1)],
        *[(1, 1, 0.75, 2), (1, 2, 0.25, 1)],
    ]


def test_scores_beyond_0_and_1_count_at_the_ends():
    confidence = jnp.asarray([[[1.25, -0.5, -0.0, 70000.0]]], jnp.float32)
    found = confidence_histogram(jnp.zeros((1, 1, 4), jnp.uint8), confidence, 1)
    assert found[0, 0, 0] == 2
    assert found[0, 0, -1] == 2


@pytest.mark.parametrize("alpha", [0.0, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("gamma", [0.0, 1.0, 8.0])
@pytest.mark.parametrize("num_values", [1, 2, 7, 1000])
def test_quantile_is_that_of_the_sorted_list(alpha, gamma, num_values):
    rng = np.random.default_rng(num_values)
    thresholds = np.float64([0.9, 0.31, 0.999, 0.5])
    labels = rng.integers(0, 3, num_values).astype(np.uint8)[None, None]  # 3 is absent
    confidence = rng.choice(rng.random(40), num_values).astype(np.float32)[None, None]
    confidence[0, 0, 0] = 0.5
    found = instance_thresholds(
        counts_of(jnp.asarray(labels), jnp.asarray(confidence), 4),
        thresholds,
        alpha=alpha,
        gamma=gamma,
    )
    for label, threshold in enumerate(thresholds):
        own = confidence[labels == label].astype(np.float16).astype(np.float64)
        share = 100 * (1 - alpha * threshold**gamma)
        expected = np.percentile(np.append(own, threshold), share)
        assert found[label] == np.float32(expected)
    assert found[3] == np.float32(thresholds[3])


def test_counts_beyond_float32_keep_their_ranks():
    counts = np.zeros((1, NUM_VALUES), np.int64)
    counts[0, [-2, -1]] = 2**30, 2**30 - 1
    # 2**31 samples with the threshold itself: rank (2**31 - 1) / 2 is halfway
    found = instance_thresholds(counts, np.float64([0.25]), alpha=0.5, gamma=0.0)
    below = np.float16(1) - np.float16(2**-11)
    assert found[0] == np.float32((float(below) + float(below)) / 2)
    counts[0, [-2, -1]] = 2**30 - 1, 2**30
    found = instance_thresholds(counts, np.float64([0.25]), alpha=0.5, gamma=0.0)
    assert found[0] == np.float32((float(below) + 1) / 2)


def test_average_and_cap():
    moved = moved_thresholds(
        np.float64([0.9, 0.9]), np.float32([0.5, 1.0]), beta=0.9, cap=0.999
    )
    share = np.float64(np.float32(1 - 0.9) * np.float32(0.5))
    assert moved[0] == 0.9 * 0.9 + share
    saturated = moved_thresholds(
        np.float64([0.9]), np.float32([1.0]), beta=0.0, cap=0.999
    )
    assert saturated[0] == 0.999


def test_saturated_confidences_are_kept():
    probs = jnp.broadcast_to(jnp.asarray([0.0, 1.0]), (2, 3, 3, 2))
    state, labels = run(Selector(beta=0.0, alpha=0.0), probs, 2)
    assert state["trace"][-1].tolist() == [np.float32(0.9), 0.999]
    assert (labels == 1).all()


def test_equal_scores_go_to_the_first_class_and_reach_their_threshold():
    probs = jnp.full((1, 2, 2, 4), 0.25)
    state, labels = run(Selector(beta=0.0, gamma=0.0, theta0=0.125), probs, 1)
    assert state["trace"][-1].tolist() == [0.25, 0.125, 0.125, 0.125]
    assert (labels == 0).all()


def test_beta_1_is_the_constant_selector():
    probs = scores(5)
    probs = probs.at[0, 0, 0].set(jnp.asarray([np.float32(0.9), 0.1, 0, 0, 0]))
    for theta in (0.9, 0.5):
        _, adaptive = run(Selector(beta=1.0, theta0=theta), probs, 2)
        _, fixed = run(constant.Selector(threshold=theta), probs, 4)
        np.testing.assert_array_equal(adaptive, fixed)
        assert adaptive[0, 0, 0] == (IGNORE if theta == 0.9 else 0)
        assert 0 < (adaptive == IGNORE).mean() < 1


@pytest.mark.parametrize("batch_size", [2, 4, 6, 8])
def test_instances_do_not_depend_on_the_batch(batch_size):
    probs = scores(7)
    one_by_one, expected = run(Selector(), probs, 2)
    state, labels = run(Selector(), probs, batch_size)
    np.testing.assert_array_equal(labels, expected)
    np.testing.assert_array_equal(state["trace"], one_by_one["trace"])
    assert len(state["trace"]) == 1 + 4
    _, others = run(Selector(instance_size=1), probs, batch_size)
    assert (others != expected).any()


def test_a_batch_may_not_end_within_an_instance():
    with pytest.raises(ConfigError, match=r"after 3 images.*inference.batch_size"):
        run(Selector(), scores(4), 3)


def test_resumes_from_a_saved_state():
    probs, selector = scores(8), Selector(gamma=1.0)
    whole, expected = run(selector, probs, 2)
    half, first = run(selector, probs[:4], 2)
    file = io.BytesIO()
    np.savez(file, **half)
    file.seek(0)
    end, second = run(selector, probs[4:], 2, state=dict(np.load(file)))
    np.testing.assert_array_equal(np.concatenate([first, second]), expected)
    assert selector.summary(end) == selector.summary(whole)


def test_order_matters():
    probs = scores(6)
    _, forwards = run(Selector(beta=0.5), probs, 2)
    _, backwards = run(Selector(beta=0.5), probs[::-1], 2)
    assert (forwards != backwards[::-1]).any()


def test_labels_use_float32_confidences_and_the_moved_thresholds():
    probs = scores(2)
    state, labels = run(Selector(), probs, 2)
    confidence = np.asarray(probs.max(-1), np.float64)
    likeliest = np.asarray(probs.argmax(-1))
    kept = confidence >= state["trace"][-1][likeliest]
    np.testing.assert_array_equal(labels, np.where(kept, likeliest, IGNORE))


def test_a_round_labels_in_order():
    order, model = torch_randperm(7), make_model()
    network, inference = make_network(model), Inference(batch_size=4)
    ctx = Context(records=make_images(7), task=make_task())
    selector = Selector(theta0=0.3, beta=0.5, gamma=1.0)
    meta = make_labels(
        ctx,
        model=model,
        network=network,
        selector=selector,
        inference=inference,
        order=order,
    )
    images = np.stack([ctx.records[i]["image"] for i in order])
    probs = jax.jit(inference.make_scores(model))(network.variables, images)
    state, labels = run(selector, probs, 2)
    np.testing.assert_allclose(meta["thresholds"], state["trace"][-1], atol=1e-6)
    assert len(meta["trace"]) == 1 + 4
    assert meta["selector"] == "instance_adaptive"
    assert meta["ids"] == [f"image_{i}" for i in order]
    found = np.stack([ctx.store.read("labels", name) for name in meta["ids"]])
    assert (found == labels).mean() > 0.999
    assert 0.2 < (found == IGNORE).mean() < 0.9


def test_summary_is_the_trace():
    state, _ = run(Selector(), scores(3), 2)
    summary = Selector().summary(state)
    assert summary["trace"] == state["trace"].tolist()
    assert summary["trace"][0] == [0.9] * 5
    assert summary["trace"][-1] == summary["thresholds"]


def test_scores_that_are_no_numbers_stop_the_pass():
    probs = scores(4).at[3, 0, 0, 0].set(jnp.nan)
    with pytest.raises(TrainingError, match="not finite in images 3 to 4"):
        run(Selector(), probs, 2)


@pytest.mark.parametrize(
    "setting",
    [{"alpha": 1.5}, {"beta": -0.1}, {"gamma": -1.0}, {"instance_size": 0}],
)
def test_impossible_settings(setting):
    with pytest.raises(ConfigError, match=f"selector.{next(iter(setting))}"):
        instance_adaptive.Selector(**setting)
