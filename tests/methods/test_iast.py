import functools

import jax
import numpy as np
import optax
import pytest

from sfda_jax.data.torch_order import torch_randperm
from sfda_jax.errors import ConfigError
from sfda_jax.methods import iast
from sfda_jax.pseudo_labels import constant, instance_adaptive
from sfda_jax.pseudo_labels.inference import Inference
from sfda_jax.train.optim import OptimizerSettings, make_optimizer
from sfda_jax.train.step import make_train_step
from sfda_jax.types import IGNORE
from tests.methods.stand_ins import (
    Context,
    assert_shard_close,
    make_images,
    make_model,
    make_network,
    make_state,
    make_task,
    run_both_ways,
)

OPTIMIZER = make_optimizer(
    OptimizerSettings(
        name="adam",
        learning_rate=0.01,
        schedule="cosine_restart",
        restart_steps=10,
        end_rate=1e-4,
        freeze=("*bn*",),
    )
)
SMALL = {
    "batch_size": 4,
    "crop_size": (16, 24),
    "target_heights": (12, 20),
    "source_heights": (12, 20),
    "inference": Inference(size=(24, 36), resample="lanczos", batch_size=2),
    # The untrained network is nowhere sure of itself.
    "selector": constant.Selector(threshold=0.25),
}


def make_method(**settings):
    model = settings.pop("model", make_model())
    return iast.Method(model=model, task=make_task(), **{**SMALL, **settings})


def make_batch(size=4, seed=0, kept=0.6):
    """Each image with another share of kept pixels."""
    rng = np.random.default_rng(seed)
    shape = (size, 16, 24)
    labels = rng.integers(0, 5, shape, dtype=np.uint8)
    shares = kept * np.linspace(0.5, 1, size)[:, None, None]
    labels[rng.random(shape) > shares] = IGNORE
    images = rng.integers(0, 256, (2, *shape, 3), dtype=np.uint8)
    return {
        "target": {"images": images[0], "labels": labels},
        "source": {"images": images[1], "labels": labels[::-1].copy()},
    }


@functools.cache
def compiled_step(**settings):
    return jax.jit(make_train_step(make_method(**settings), OPTIMIZER))


def run(batches, *, state=None, **settings):
    """The state after these batches, and the metrics of each step."""
    if state is None:
        state = make_state(make_method(**settings), OPTIMIZER)
    step, rows = compiled_step(**settings), []
    for batch in batches:
        state, metrics = step(state, batch, jax.random.key(0))
        rows.append(jax.device_get(metrics))
    return state, rows


def same(a, b):
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, a, b)))


def test_labels_are_learnt_and_batch_norm_affine_stays():
    start = make_state(make_method(), OPTIMIZER)
    state, rows = run([make_batch()] * 8, entropy_weight=0.0, kld_weight=0.0)
    assert rows[-1]["loss"] < rows[0]["loss"]
    new, old = state.student, start.student
    assert same(new.params["backbone"]["bn"], old.params["backbone"]["bn"])
    assert not same(new.params["head"], old.params["head"])
    assert not same(new.batch_stats, old.batch_stats)
    assert 0.4 < rows[0]["coverage"] < 0.5


def test_terms_have_their_weights():
    batches = [make_batch()]
    _, (plain,) = run(batches)
    _, (heavy,) = run(batches, entropy_weight=6.0, kld_weight=0.3, region_norm="pixels")
    np.testing.assert_allclose(heavy["loss_labels"], plain["loss_labels"])
    np.testing.assert_allclose(
        heavy["loss_entropy"], 2 * 5 * plain["loss_entropy"], rtol=1e-6
    )
    np.testing.assert_allclose(heavy["loss_kld"], 3 * 5 * plain["loss_kld"], rtol=1e-6)
    _, (bare,) = run(batches, entropy_weight=0.0, kld_weight=0.0)
    assert {"loss_entropy", "loss_kld"}.isdisjoint(bare)


def test_source_is_seen_first_and_only_with_a_weight():
    batch = make_batch()
    assert not make_method().trains_on_source
    assert make_method(source_weight=1.0).trains_on_source
    alone, _ = run([{"target": batch["target"]}])
    both, (metrics,) = run([batch], source_weight=1.0)
    parts = sum(v for k, v in metrics.items() if k.startswith("loss_"))
    np.testing.assert_allclose(metrics["loss"], parts, rtol=1e-6)
    # Statistics move twice: by the source's batch, then by the target's.
    swapped = {"target": batch["source"], "source": batch["target"]}
    other, _ = run([swapped], source_weight=1.0)
    once, twice, turned = (
        s.student.batch_stats["backbone"]["bn"]["mean"] for s in (alone, both, other)
    )
    assert not np.allclose(twice, once) and not np.allclose(twice, turned)


@pytest.mark.parametrize(("kept", "left"), [(0.0, "entropy"), (2.0, "labels")])
def test_empty_regions(kept, left):
    """Nothing kept, or nothing rejected."""
    batches = [make_batch(), make_batch(seed=1, kept=kept)]
    before, _ = run(batches[:1])

    after, rows = run(batches)
    assert np.isfinite(rows[1]["loss"]) and rows[1][f"loss_{left}"] > 0
    assert rows[1][f"loss_{'labels' if left == 'entropy' else 'entropy'}"] == 0
    assert not same(after.student.params, before.student.params)

    _, rows = run(batches, empty_region="nan")
    assert np.isfinite(rows[0]["loss"])
    assert np.isnan(rows[1]["loss"]) and np.isnan(rows[1]["grad_norm"])

    after, rows = run(batches, empty_region="skip_step")
    assert np.isfinite(rows[1]["loss"])
    assert same(after.student.params, before.student.params)
    for name in ("mu", "nu"):
        assert same(*(optax.tree.get(s.opt_state, name) for s in (after, before)))
    assert not same(after.student.batch_stats, before.student.batch_stats)
    assert after.step == 2
    # The schedule went on without the step.
    _, (next_,) = run(batches[:1], state=after, empty_region="skip_step")
    _, steady = run(batches[:1] * 3)
    assert next_["learning_rate"] == steady[2]["learning_rate"]


def test_pmap_equals_one_device():
    method = make_method(source_weight=0.5, empty_region="skip_step")
    batches = [make_batch(seed=seed) for seed in range(3)]
    # A region that is empty on one device only is not empty.
    batches[1]["target"]["labels"][0] = IGNORE
    ran = run_both_ways(method, OPTIMIZER, batches)
    for metrics in ran.metrics:
        assert_shard_close(*metrics, device=2, rtol=2e-5)
    # Adam makes the sign of what is nearly 0 count: a hundredth of three steps.
    assert_shard_close(ran.state, ran.shards, rtol=1e-4, atol=3e-4)


def test_round_labels_once_in_the_published_order():
    method = make_method()
    state = make_state(method, OPTIMIZER)
    records = make_images(9)
    ctx = Context(records, method.task)
    _, streams = method.begin_round(ctx, state)
    order = torch_randperm(9)
    assert ctx.store.meta["ids"] == [records[i]["id"] for i in order]
    assert ctx.store.read("labels", "image_3").shape == (24, 36)
    assert set(streams) == {"target"}
    # The incomplete last batch is left out, the same images every epoch.
    np.testing.assert_array_equal(streams["target"].order, order[:8])
    arrays = streams["target"].transform(records[0], np.random.default_rng(0))
    assert arrays["images"].shape == (16, 24, 3)
    assert arrays["labels"].shape == (16, 24)
    assert set(np.unique(arrays["labels"])) <= {0, 1, 2, 3, 4, IGNORE}
    forwards = ctx.forwards
    method.begin_round(ctx, state)
    assert ctx.forwards == forwards


def test_order_of_the_file_and_a_stream_shuffled_anew():
    method = make_method(label_order="file", train_order="shuffled")
    ctx = Context(make_images(5), method.task)
    _, streams = method.begin_round(ctx, make_state(method, OPTIMIZER))
    assert ctx.store.meta["ids"] == [f"image_{i}" for i in range(5)]
    assert streams["target"].order is None


def test_instance_adaptive_thresholds_depend_on_the_order():
    selector = instance_adaptive.Selector(theta0=0.3, gamma=0.0)
    records, found = make_images(6), {}
    for name in ("published", "file"):
        method = make_method(selector=selector, label_order=name)
        ctx = Context(records, method.task)
        method.begin_round(ctx, make_state(method, OPTIMIZER))
        found[name] = ctx.store.meta
    assert len(found["file"]["trace"]) == 1 + 3
    assert found["file"]["thresholds"] != found["published"]["thresholds"]


def test_labels_come_from_the_network_that_is_named():
    method, records = make_method(), make_images(4)
    state = make_state(method, OPTIMIZER)
    other = make_network(method.model, seed=5)
    named = Context(records, method.task, labeller=other)
    method.begin_round(named, state)
    expected = Context(records, method.task)
    method.begin_round(expected, state.replace(student=other))
    own = Context(records, method.task)
    method.begin_round(own, state)
    maps = [
        np.stack([c.store.read("labels", r["id"]) for r in records])
        for c in (named, expected, own)
    ]
    np.testing.assert_array_equal(maps[0], maps[1])
    assert (maps[0] != maps[2]).any()


def test_source_stream_brings_its_own_labels():
    method = make_method(source_weight=1.0)
    label = np.full((32, 48), 3, np.uint8)
    records = [{**r, "label": label} for r in make_images(4)]
    ctx = Context(records, method.task)
    _, streams = method.begin_round(ctx, make_state(method, OPTIMIZER))
    arrays = streams["source"].transform(records[0], np.random.default_rng(0))
    assert (arrays["labels"] == 3).all()


def test_settings_are_checked():
    with pytest.raises(ConfigError, match="skip_step"):
        make_method(empty_region="skip")
    with pytest.raises(ConfigError, match="published"):
        make_method(train_order="publish")
