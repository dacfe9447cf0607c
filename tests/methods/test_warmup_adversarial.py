import functools

import jax
import numpy as np
import pytest

from sfda_jax.errors import ConfigError
from sfda_jax.methods import warmup_adversarial
from sfda_jax.train.optim import OptimizerSettings, make_optimizer
from sfda_jax.train.step import make_train_step
from sfda_jax.types import IGNORE
from tests.methods.stand_ins import (
    Context,
    assert_shard_close,
    make_images,
    make_model,
    make_state,
    make_task,
    run_both_ways,
)

OPTIMIZER = make_optimizer(
    OptimizerSettings(name="adam", learning_rate=1e-3, schedule="constant")
)
SMALL = {
    "batch_size": 4,
    "crop_size": (32, 32),
    "source_heights": (20, 30),
    "target_heights": (20, 30),
    "discriminator_width": 4,
    "discriminator_rate": 1e-2,
    "discriminator_end_rate": 1e-4,
    "restart_steps": 3,
}


def make_method(**settings):
    return warmup_adversarial.Method(
        model=make_model(), task=make_task(), **{**SMALL, **settings}
    )


def make_batch(size=4, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (2, size, 32, 32, 3), dtype=np.uint8)
    labels = rng.integers(0, 5, (size, 32, 32), dtype=np.uint8)
    labels[0, :9] = IGNORE
    return {
        "source": {"images": images[0], "labels": labels},
        "target": {"images": images[1] // 3},
    }


METHOD = make_method(adversarial_weight=0.5)


@functools.cache
def start():
    return make_state(METHOD, OPTIMIZER)


@functools.cache
def compiled_step(**settings):
    return jax.jit(make_train_step(make_method(**settings), OPTIMIZER))


def run(num_steps, **settings):
    step, state, rows = compiled_step(**settings), start(), []
    for _ in range(num_steps):
        state, metrics = step(state, make_batch(), jax.random.key(0))
        rows.append(jax.device_get(metrics))
    return state, rows


def test_both_players_move_at_once():
    state, (row,) = run(1, adversarial_weight=0.5)
    for new, old in (
        (state.student.params["head"], start().student.params["head"]),
        (state.method.params, start().method.params),
    ):
        moved = jax.tree.map(lambda a, b: bool((a != b).any()), new, old)
        assert all(jax.tree.leaves(moved))
    assert int(state.method.moments.count) == 1
    # The discriminator's loss is its own.
    np.testing.assert_allclose(
        row["loss"], row["loss_source"] + row["loss_adversarial"], rtol=1e-6
    )
    assert row["loss_discriminator"] > 0 and row["loss_adversarial"] > 0


def test_discriminator_learns_even_where_the_network_does_not_listen():
    _, rows = run(6, source_weight=0.0, adversarial_weight=0.0)
    assert rows[-1]["loss_discriminator"] < rows[0]["loss_discriminator"]
    assert rows[0]["loss"] == 0


def test_pmap_equals_one_device():
    batches = [make_batch(seed=seed) for seed in range(2)]
    step = compiled_step(adversarial_weight=0.5)
    ran = run_both_ways(METHOD, OPTIMIZER, batches, state=start(), step=step)
    for metrics in ran.metrics:
        assert_shard_close(*metrics, device=2, rtol=5e-5)
    # A hundredth of what Adam can move in two steps.
    for part, rate in (("student", 1e-3), ("method", 1e-2)):
        one, many = getattr(ran.state, part), getattr(ran.shards, part)
        assert_shard_close(one, many, rtol=1e-4, atol=0.02 * rate)


def test_streams():
    label = np.full((32, 48), 2, np.uint8)
    images = make_images(6)
    ctx = Context(images, METHOD.task)
    _, streams = METHOD.begin_round(ctx, start())
    assert {name: s.domain for name, s in streams.items()} == {
        "source": "source",
        "target": "target",
    }
    assert all(len(stream.order) == 4 for stream in streams.values())
    rng = np.random.default_rng(0)
    source = streams["source"].transform({**images[0], "label": label}, rng)
    assert (source["labels"] == 2).all()
    target = streams["target"].transform(images[0], rng)
    assert target["images"].shape == (32, 32, 3) and "labels" not in target
    shuffled = make_method(order="shuffled").begin_round(ctx, start())[1]
    assert shuffled["source"].order is None


def test_settings_are_checked():
    with pytest.raises(ConfigError, match="at least 32"):
        make_method(crop_size=(31, 64))
    with pytest.raises(ConfigError, match="shuffled"):
        make_method(order="shuffle")
