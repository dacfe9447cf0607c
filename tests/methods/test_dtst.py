import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sfda_jax.errors import ConfigError
from sfda_jax.methods import dtst
from sfda_jax.train.optim import OptimizerSettings, make_optimizer
from sfda_jax.train.step import make_train_step
from sfda_jax.types import IGNORE
from tests.methods.stand_ins import (
    ONLINE,
    Context,
    Store,
    assert_shard_close,
    make_images,
    make_model,
    make_online_batch,
    make_state,
    make_task,
    run_both_ways,
)

SMALL = {**ONLINE, "query_start": 2, "query_step": 1, "max_update": 2}


def make_method(**settings):
    model = settings.pop("model", make_model(frozen_bn=True))
    return dtst.Method(model=model, task=make_task(), **{**SMALL, **settings})


def make_batch(seed=0):
    return {"target": make_online_batch(np.random.default_rng(seed))}


OPTIMIZER = make_optimizer(OptimizerSettings(learning_rate=0.01, max_steps=10))


def test_step_learns_and_teacher_follows():
    method = make_method(threshold_floor=0.0)
    state = make_state(method, OPTIMIZER)
    step = jax.jit(make_train_step(method, OPTIMIZER))
    updates, losses = [], []
    before = jax.device_get(state.teacher)
    for t in range(4):
        state, metrics = step(state, make_batch(seed=t), jax.random.key(0))
        updates.append(bool(state.method.dtu.updated))
        losses.append(float(metrics["loss"]))
        if t == 0:
            jax.tree.map(np.testing.assert_array_equal, before, state.teacher)
    assert np.isfinite(losses).all()
    assert any(updates)
    assert int(state.method.dtu.num_updates) == sum(updates)
    assert state.step == 4
    jax.tree.map(
        np.testing.assert_array_equal, before.batch_stats, state.student.batch_stats
    )
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), before, state.teacher)
    assert any(jax.tree.leaves(moved.params))
    assert {"loss_pos", "loss_neg", "coverage", "teacher_updated", "dtu_buffer"} <= set(
        metrics
    )
    assert {"loss", "grad_norm", "learning_rate"} <= set(metrics)


def test_labels_are_pasted_over_the_teachers():
    method = make_method()
    state = make_state(method, OPTIMIZER)
    batch = make_batch()
    _, targets = jax.jit(method.annotate)(state, batch, jax.random.key(0))
    pasted = batch["target"]["mix_labels"] != IGNORE
    assert (np.asarray(targets.labels)[pasted] == 2).all()
    np.testing.assert_array_equal(targets.weights, targets.labels != IGNORE)


def test_fixed_interval_updates_at_the_first_step():
    method = make_method(dynamic=False, fixed_interval=2)
    state = make_state(method, OPTIMIZER)
    assert state.method.dtu is None
    moved = []
    step = jax.jit(make_train_step(method, OPTIMIZER))
    for t in range(3):
        old = state.teacher
        state, _ = step(state, make_batch(seed=t), jax.random.key(0))
        differs = jax.tree.map(lambda a, b: bool((a != b).any()), old, state.teacher)
        moved.append(any(jax.tree.leaves(differs.params)))
    assert moved == [True, False, True]


def test_batch_statistics_move_the_student_alone():
    model = make_model()
    method = make_method(
        model=model, student_statistics="batch", dynamic=False, fixed_interval=100
    )
    state = make_state(method, OPTIMIZER)
    state = state.replace(step=jnp.ones((), jnp.int32))
    new, _ = jax.jit(make_train_step(method, OPTIMIZER))(
        state, make_batch(), jax.random.key(0)
    )
    same = jax.tree.map(
        lambda a, b: bool((a == b).all()), state.student, new.student
    ).batch_stats
    assert not any(jax.tree.leaves(same))
    jax.tree.map(np.testing.assert_array_equal, state.teacher, new.teacher)


@pytest.mark.parametrize(
    "statistics", ["running", pytest.param("batch", marks=pytest.mark.slow)]
)
def test_pmap_equals_one_device(statistics):
    model = make_model(frozen_bn=statistics == "running")
    method = make_method(
        model=model, student_statistics=statistics, max_update=1, query_start=1
    )
    ran = run_both_ways(method, OPTIMIZER, [make_batch(seed=t) for t in range(2)])
    for metrics in ran.metrics:
        assert_shard_close(*metrics, device=2, rtol=2e-5, atol=2e-6)
    assert_shard_close(ran.state, ran.shards, rtol=2e-5, atol=2e-6)


def test_rounds_make_candidates_once():
    method = make_method(mix_prob="one_minus_conf")
    state = make_state(method, OPTIMIZER)
    records = make_images(5)
    first = Context(records, method.task)
    method.begin_round(first, state)
    assert first.store.read("candidates", "image_3").shape == (8, 16)
    meta = first.store.meta
    assert meta["ids"] == [r["id"] for r in records]
    assert len(meta["thresholds"]) == len(meta["coverage"]) == 5
    method.begin_round(first, state)
    assert first.forwards == 1

    second = Context(records, method.task, round=1, previous=first.store)
    _, streams = method.begin_round(second, state)
    assert second.store.read("predictions", "image_0").shape == (16, 32)
    # The teacher has not moved, so each image agrees with itself up to resolution.
    assert np.mean(second.store.meta["coverage"]) > 0
    spec = streams["target"]
    assert spec.order.shape == (3 * 4,)
    arrays = spec.transform(records[0], np.random.default_rng(0))
    assert arrays["images"].shape == (16, 24, 3)
    assert arrays["full_images"].shape == (32, 48, 3)


def test_unfinished_store_is_made_again():
    method = make_method(sampling="uniform", mix_classes=())
    ctx = Context(make_images(3), method.task, store=Store())
    _, streams = method.begin_round(ctx, make_state(method, OPTIMIZER))
    assert ctx.store.complete()
    assert streams["target"].order is None


def test_settings_are_checked():
    with pytest.raises(ConfigError, match="soft_nd"):
        make_method(score="soft")
    with pytest.raises(ConfigError, match="mix_classes"):
        make_method(mix_classes=None)
