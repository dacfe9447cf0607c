import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sfda_jax.errors import ConfigError, DataError
from sfda_jax.losses.cross_entropy import mean_cross_entropy
from sfda_jax.methods import snd
from sfda_jax.models.forward import forward
from sfda_jax.ops.resize import resize_bilinear
from sfda_jax.train.lookups import split_streams
from sfda_jax.train.optim import OptimizerSettings, make_optimizer
from sfda_jax.train.step import make_train_step
from sfda_jax.types import IGNORE
from tests.methods.stand_ins import (
    ONLINE,
    Context,
    assert_shard_close,
    make_images,
    make_model,
    make_online_batch,
    make_state,
    make_task,
    run_both_ways,
)

SMALL = {**ONLINE, "stable_share": 0.5}
STABLE_ST = {
    "dynamic": True,
    "ema_decay": 0.9,
    "query_start": 8,
    "query_step": 4,
    "max_update": 8,
}
OPTIMIZER = make_optimizer(OptimizerSettings(learning_rate=0.01, max_steps=10))
KEY = jax.random.key(3)


def make_method(**settings):
    model = settings.pop("model", make_model(frozen_bn=True))
    return snd.Method(model=model, task=make_task(), **{**SMALL, **settings})


def make_batch(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "target": make_online_batch(rng),
        "stable": {
            "images": rng.integers(0, 256, (4, 32, 48, 3), dtype=np.uint8),
            "labels": rng.integers(0, 5, (4, 32, 48), dtype=np.uint8),
        },
    }


def moved(old, new):
    differs = jax.tree.map(lambda a, b: bool((a != b).any()), old, new)
    return any(jax.tree.leaves(differs))


def test_teacher_follows_every_step_by_default():
    method = make_method()
    state = make_state(method, OPTIMIZER)
    assert state.method.dtu is None
    step = jax.jit(make_train_step(method, OPTIMIZER))
    for t in range(2):
        old = state
        state, metrics = step(state, make_batch(seed=t), KEY)
        assert moved(old.teacher.params, state.teacher.params)
        assert moved(old.student.params, state.student.params)
    assert np.isfinite(metrics["loss"])
    assert {"loss_inner", "loss_stable", "helpful", "coverage"} <= set(metrics)
    assert metrics["coverage"] == 1


def test_repeated_steps_fit_the_weighted_labels():
    method = make_method(fixed_interval=100)
    state = make_state(method, OPTIMIZER)
    step = jax.jit(make_train_step(method, OPTIMIZER))
    losses = []
    for _ in range(5):
        state, metrics = step(state, make_batch(), KEY)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < losses[0]


def test_weights_are_bounded_and_one_where_pasted():
    method = make_method()
    state, batch = make_state(method, OPTIMIZER), make_batch()

    @jax.jit
    def weigh(state, batch):
        state, targets = method.annotate(state, batch, KEY)
        return targets.labels, method.pixel_weights(state, batch, targets)[0]

    labels, weights = map(np.asarray, weigh(state, batch))
    pasted = batch["target"]["mix_labels"] != IGNORE
    assert (labels != IGNORE).all()
    assert (labels[pasted] == 2).all()
    assert (weights[pasted] == 1).all()
    assert weights.min() >= 0.1 - 1e-6
    assert weights.max() <= 1.9 + 1e-6
    assert weights[~pasted].std() > 0


def test_without_meta_it_is_plain_self_training():
    method = make_method(meta=False)
    state, batch = make_state(method, OPTIMIZER), make_batch()
    del batch["stable"]
    _, targets = jax.jit(method.annotate)(state, batch, KEY)
    assert targets.queries is None
    assert targets.extras is None
    assert (targets.labels == IGNORE).any()
    _, metrics = jax.jit(make_train_step(method, OPTIMIZER))(state, batch, KEY)
    images = jnp.asarray(batch["target"]["images"])
    output, _ = forward(method.model, state.student, images, statistics="running")
    logits = resize_bilinear(output.logits, (16, 24), align_corners=True)
    plain = mean_cross_entropy(logits, targets.labels, denominator="all")
    np.testing.assert_allclose(metrics["loss"], plain, rtol=1e-5)


def test_nfd_counts_images():
    method = make_method(**STABLE_ST)
    state = make_state(method, OPTIMIZER)
    assert state.method.dtu.scores.shape == (3, 4)
    step = jax.jit(make_train_step(method, OPTIMIZER))
    asked = []
    for t in range(3):
        state, _ = step(state, make_batch(seed=t), KEY)
        asked.append((bool(state.method.dtu.queried), bool(state.method.dtu.updated)))
    assert asked[0] == (False, False)
    assert asked[1][0]
    # Twelve images are beyond the maximum.
    assert asked[1][1] or asked[2] == (True, True)
    other = make_method(**{**STABLE_ST, "count": "iterations"})
    assert other.rule.stored(2) == 2
    assert make_method(score="soft_nd").rule.per_iteration == 1


@pytest.mark.parametrize(
    "settings",
    [
        STABLE_ST,
        pytest.param({**STABLE_ST, "score": "soft_nd"}, marks=pytest.mark.slow),
        pytest.param({"neighbour": "nearest"}, marks=pytest.mark.slow),
    ],
    ids=["stable_st", "soft_nd", "nearest"],
)
def test_pmap_equals_one_device(settings):
    method = make_method(**{**settings, "query_start": 4})
    ran = run_both_ways(method, OPTIMIZER, [make_batch(seed=t) for t in range(2)])
    for metrics in ran.metrics:
        assert_shard_close(*metrics, device=2, rtol=2e-5, atol=2e-6)
    assert_shard_close(ran.state, ran.shards, rtol=2e-5, atol=2e-6)


def ask(method, ctx, state, rows=slice(None)):
    """What the round's look-up answers for one batch."""
    _, streams = method.begin_round(ctx, state)
    _, lookups = split_streams(streams)
    _, targets = jax.jit(method.annotate)(state, make_batch(), KEY)
    query = jax.device_get(targets.queries["stable"])
    return lookups["stable"].answer(query, np.random.default_rng(5), rows)


@pytest.mark.parametrize("neighbour", ["overlap", "nearest"])
def test_rounds_keep_stable_sets_and_answer_alike_when_resumed(neighbour):
    method = make_method(neighbour=neighbour)
    state = make_state(method, OPTIMIZER)
    ctx = Context(make_images(6), method.task)
    found = ask(method, ctx, state)
    assert len(ctx.store.meta["stable"]["stable"]) == 3
    assert any(name == "stable_mixup" for name, _ in ctx.store.maps)
    assert found["images"].shape == (4, 32, 48, 3)
    assert found["labels"].shape == (4, 32, 48)
    assert (found["labels"] != IGNORE).any()
    again = ask(method, ctx, state)
    part = ask(method, ctx, state, slice(1, 3))
    assert ctx.forwards == 1
    for name in ("images", "labels"):
        np.testing.assert_array_equal(found[name], again[name])
        np.testing.assert_array_equal(found[name][1:3], part[name])


def test_stable_sets_of_an_earlier_stage_are_kept():
    warmup = make_method(meta=False)
    state = make_state(warmup, OPTIMIZER)
    records = make_images(6)
    earlier = Context(records, warmup.task)
    _, streams = warmup.begin_round(earlier, state)
    assert list(streams) == ["target"]

    method = make_method(sets_from="stage:warmup")
    assert method.reads_labels_of == ("stage:warmup",)
    stores = {"stage:warmup": earlier.store}
    first = Context(records, method.task, stage_stores=stores)
    found = ask(method, first, state)
    assert first.forwards == 0
    assert "stable" not in first.store.meta
    for key, labels in first.store.maps.items():
        np.testing.assert_array_equal(labels, earlier.store.maps[key])
    second = Context(
        records, method.task, round=1, previous=first.store, stage_stores=stores
    )
    again = ask(method, second, state)
    assert second.forwards == 1
    assert not any(name == "stable_mixup" for name, _ in second.store.maps)
    np.testing.assert_array_equal(found["images"], again["images"])

    trial = Context(records, method.task, trial=True)
    assert ask(method, trial, state)["images"].shape == found["images"].shape
    stores["stage:warmup"] = trial.store
    trial.store.meta.pop("stable")
    with pytest.raises(DataError, match="stage:warmup"):
        method.begin_round(Context(records, method.task, stage_stores=stores), state)


def test_settings_are_checked():
    with pytest.raises(ConfigError, match="nfd"):
        make_method(score="nfdd")
    with pytest.raises(ConfigError, match="overlap"):
        make_method(neighbour="style")
    with pytest.raises(ConfigError, match="sets_from"):
        make_method(sets_from="warmup")
    with pytest.raises(ConfigError, match="mix_classes"):
        make_method(mix_classes=None)
