import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sfda_jax import settings
from sfda_jax.errors import ConfigError, DataError
from sfda_jax.losses.consistency import mean_divergence
from sfda_jax.losses.cross_entropy import mean_cross_entropy, symmetric_cross_entropy
from sfda_jax.methods import bismap_self_train
from sfda_jax.models.forward import enlarged, forward
from sfda_jax.ops.color import normalize
from sfda_jax.train.step import make_train_step
from sfda_jax.types import IGNORE, ModelState
from tests.methods.bismap_batches import (
    CROP,
    OPTIMIZER,
    SIZE,
    first_terms,
    make_batch,
    make_store,
)
from tests.methods.stand_ins import (
    Context,
    Store,
    assert_shard_close,
    make_images,
    make_model,
    make_state,
    make_task,
    run_both_ways,
)

KEY = jax.random.key(0)
WARM_UP = {"labels_of": "", "consistency": 0.0}
TARGET_ALONE = {"use_source": False}


def make_method(**given):
    small = {"source_crop": CROP, "target_crop": CROP, "ramp_steps": 10}
    return bismap_self_train.Method(
        model=make_model(), task=make_task(), **{**small, **given}
    )


@functools.cache
def start(**given):
    return make_state(make_method(**given), OPTIMIZER)


@functools.cache
def compiled_step(**given):
    return jax.jit(make_train_step(make_method(**given), OPTIMIZER))


def run(batches, *, state=None, **given):
    """The state after these batches, and the metrics of each step."""
    state, rows = start(**given) if state is None else state, []
    for batch in batches:
        state, metrics = compiled_step(**given)(state, batch, KEY)
        rows.append(jax.device_get(metrics))
    return state, rows


def terms_of(batch, **given):
    return first_terms(make_method(**given), start(), batch)


def assert_same(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


def passed(network, images):
    """Logits at the images' size with batch statistics, and the network after it."""
    model = make_method().model
    output, stats = forward(model, network, images, statistics="batch", key=KEY)
    large = enlarged(model, output.logits, images.shape[1:3])
    return large, ModelState(network.params, stats)


@jax.jit
def expected_step(student, batch):
    """Terms of the first step and the statistics after it, written out in order."""
    source, target = batch["source"], batch["target"]
    labels = {d: batch[d]["labels"].astype(jnp.int32) for d in batch}
    teacher, _ = passed(student, target["images"])
    logits, network = passed(student, source["images"])
    terms = {
        "loss_source": mean_cross_entropy(
            logits, labels["source"], denominator="kept", weights=source["weights"]
        )
    }
    logits, network = passed(network, target["student_images"])
    divergence = mean_divergence(logits, teacher, ~target["occluded"])
    terms["loss_consistency"] = 30 * jnp.exp(-5.0) * divergence
    logits, network = passed(network, target["images"])
    terms["loss_labels"] = symmetric_cross_entropy(logits, labels["target"])
    return terms, network.batch_stats


def test_three_passes_one_after_the_other():
    batch = make_batch()
    state, (metrics,) = run([batch])
    terms, statistics = expected_step(start().student, batch)
    for name, term in terms.items():
        np.testing.assert_allclose(metrics[name], term, rtol=2e-5)
    np.testing.assert_allclose(metrics["loss"], sum(terms.values()), rtol=1e-5)
    assert_same(state.student.batch_stats, statistics, rtol=1e-5)
    kept = (batch["target"]["labels"] != IGNORE).mean()
    np.testing.assert_allclose(metrics["coverage"], kept, rtol=1e-6)


def test_teacher_follows_the_student_before_its_step():
    first, _ = run([make_batch()])
    assert_same(first.teacher.params, start().student.params, rtol=1e-6)
    second, _ = run([make_batch(seed=1)], state=first)
    expected = jax.tree.map(
        lambda old, new: 0.999 * old + 0.001 * new,
        first.teacher.params,
        first.student.params,
    )
    assert_same(second.teacher.params, expected, rtol=1e-6)
    assert_same(second.teacher.batch_stats, first.student.batch_stats)


def test_consistency_rises_and_counts_what_the_student_sees():
    batch = make_batch()
    late = start().replace(step=jnp.int32(10))
    (early,), (row,) = run([batch])[1], run([batch], state=late)[1]
    np.testing.assert_allclose(
        early["loss_consistency"],
        np.exp(-5) * row["loss_consistency"],
        rtol=1e-4,
    )
    batch["target"]["occluded"] = np.ones_like(batch["target"]["occluded"])
    _, (covered,) = run([batch], state=late)
    assert covered["loss_consistency"] == 0 and covered["loss_labels"] > 0


def test_which_pixels_count():
    batch = make_batch()
    hidden = batch["target"]["occluded"]
    found = {
        counted: terms_of(batch, counted=counted, **TARGET_ALONE)["loss_consistency"]
        for counted in ("visible", "occluded", "all")
    }
    share = hidden.mean()
    mean = (1 - share) * found["visible"] + share * found["occluded"]
    np.testing.assert_allclose(found["all"], mean, rtol=1e-5)
    assert abs(found["visible"] / found["occluded"] - 1) > 1e-3


def test_source_free_reads_no_source():
    batch = {"target": make_batch()["target"]}
    state, (metrics,) = run([batch], **TARGET_ALONE)
    assert "loss_source" not in metrics
    parts = metrics["loss_consistency"] + metrics["loss_labels"]
    np.testing.assert_allclose(metrics["loss"], parts, rtol=1e-6)
    both, _ = run([make_batch()])
    means = [s.student.batch_stats["backbone"]["bn"]["mean"] for s in (state, both)]
    assert not np.allclose(*means)
    method = make_method(**TARGET_ALONE)
    assert not method.trains_on_source and method.adapts
    assert method.reads_labels_of == ("stage:prototypes",)


def test_warm_up_is_the_source_alone():
    method = make_method(**WARM_UP)
    assert method.trains_on_source and not method.adapts
    assert method.reads_labels_of == ("stage:transferability",)
    assert start(**WARM_UP).teacher is None
    batches = [{"source": make_batch()["source"]}] * 5
    _, rows = run(batches, **WARM_UP)
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert rows[0]["loss"] == rows[0]["loss_source"]
    # The divisor is what is labelled, not what it weighs.
    weights = batches[0]["source"]["weights"]
    lighter = {"source": {**batches[0]["source"], "weights": weights / 2}}
    _, (row,) = run([lighter], **WARM_UP)
    np.testing.assert_allclose(row["loss"], rows[0]["loss"] / 2, rtol=1e-6)


def test_nothing_labelled_is_no_loss():
    batch = make_batch()
    for part in batch.values():
        part["labels"] = np.full_like(part["labels"], IGNORE)
    batch["target"]["occluded"][:] = True
    state, (row,) = run([batch])
    assert row["loss"] == 0 and row["grad_norm"] == 0
    assert_same(state.student.params, start().student.params)


def test_mean_of_the_source_is_subtracted_twice_on_request():
    source = make_batch()["source"]
    images = np.asarray(normalize(source["images"], "imagenet_mean_twice"))

    def mean_after(images, **given):
        after = jax.jit(make_method(**given).source_loss)(
            start().student, {**source, "images": images}, KEY
        )[1]
        return after.batch_stats["backbone"]["bn"]["mean"]

    plain, given = mean_after(source["images"]), mean_after(images)
    twice = mean_after(source["images"], source_mean_twice=True)
    np.testing.assert_allclose(twice, given, rtol=1e-5, atol=1e-7)
    assert not np.allclose(twice, plain, rtol=1e-4)


def test_pmap_equals_one_device():
    batches = [make_batch(seed=seed) for seed in range(3)]
    # Means over the whole batch: one device has nothing labelled, nothing hidden.
    batches[1]["target"]["labels"][0] = IGNORE
    batches[1]["target"]["occluded"][1] = False
    ran = run_both_ways(
        make_method(), OPTIMIZER, batches, state=start(), step=compiled_step()
    )
    for metrics in ran.metrics:
        assert_shard_close(*metrics, device=2, rtol=2e-5)
    assert_shard_close(ran.state, ran.shards, rtol=1e-4, atol=1e-6)


def make_context(**stores):
    records = make_images(4)
    labels = np.indices((32, 48)).sum(0).astype(np.uint8) % 5
    weights = np.full((8, 12), 51, np.uint8)
    stage_stores = {
        "stage:prototypes": make_store(records, labels=labels),
        "stage:transferability": make_store(records, weights=weights),
        **stores,
    }
    return Context(records, make_task(), stage_stores=stage_stores)


def arrays_of(streams, name, record):
    return streams[name].transform(record, np.random.default_rng(0))


def test_streams_read_the_maps_of_earlier_stages():
    ctx = make_context()
    state, streams = make_method().begin_round(ctx, start())
    assert state is start()
    assert [(s.domain, s.batch_size) for s in streams.values()] == [
        ("source", 4),
        ("target", 4),
    ]
    record = ctx.records[0]
    target = arrays_of(streams, "target", record)
    assert target["labels"].shape == SIZE and set(np.unique(target["labels"])) <= {
        *range(5)
    }
    assert target["student_images"].shape == (*SIZE, 3) and target["occluded"].any()
    labelled = {**record, "label": np.arange(32 * 48).reshape(32, 48) % 3}
    labelled["label"] = labelled["label"].astype(np.uint8)
    source = arrays_of(streams, "source", labelled)
    assert (source["weights"] == np.float32(0.2)).all()
    assert set(np.unique(source["labels"])) == {0, 1, 2}


def test_streams_hold_only_what_the_losses_need():
    ctx = make_context()
    record = ctx.records[0]
    _, streams = make_method(consistency=0.0, **TARGET_ALONE).begin_round(ctx, start())
    assert set(streams) == {"target"}
    assert set(arrays_of(streams, "target", record)) == {"images", "labels", "index"}
    method = make_method(weights_of="", **WARM_UP)
    assert method.reads_labels_of == ()
    _, streams = method.begin_round(ctx, start())
    assert set(streams) == {"source"}
    record["label"] = np.indices((32, 48)).sum(0).astype(np.uint8) % 5
    assert "weights" not in arrays_of(streams, "source", record)


def test_tone_curve_of_the_target_alone():
    ctx = make_context()
    _, streams = make_method(gamma=0.5).begin_round(ctx, start())
    crops = {"source": streams["source"].transform}
    crops["target"] = streams["target"].transform.crop
    assert {name: crop.gamma for name, crop in crops.items()} == {
        "source": 1.0,
        "target": 0.5,
    }


def test_stages_that_left_nothing():
    ctx = make_context(**{"stage:prototypes": Store()})
    with pytest.raises(DataError, match="stage:prototypes"):
        make_method().begin_round(ctx, start())
    # A trial has no other stages: any map does.
    ctx.trial, ctx.stage_stores = True, {}
    _, streams = make_method().begin_round(ctx, start())
    labels = arrays_of(streams, "target", ctx.records[0])["labels"]
    assert set(np.unique(labels)) == {0, IGNORE}


def test_settings_are_checked():
    with pytest.raises(ConfigError, match="visible"):
        make_method(counted="seen")
    with pytest.raises(ConfigError, match="labels_of"):
        make_method(labels_of="prototypes")
    with pytest.raises(ConfigError, match="weights_of"):
        make_method(weights_of="runs/a")
    with pytest.raises(ConfigError, match="consistency"):
        make_method(labels_of="")
    with pytest.raises(ConfigError, match="nothing to train on"):
        make_method(use_source=False, **WARM_UP)
    with pytest.raises(ConfigError, match="Set gamma"):
        make_method(target_crop=dataclasses.replace(CROP, gamma=0.5))


def test_recipes_state_crops_but_not_where_maps_come_from():
    given = {"target_crop": {"crop_size": (256, 512)}}
    full = settings.complete("here", given, bismap_self_train.Method)
    assert full["target_crop"]["crop_size"] == (256, 512)
    assert full["target_crop"]["base_width"] == 2048
    built = settings.build(bismap_self_train.Method, full)
    assert built["target_crop"].pseudo is None
    with pytest.raises(ConfigError, match="pseudo"):
        settings.complete(
            "here", {"target_crop": {"pseudo": "x"}}, bismap_self_train.Method
        )
