import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sfda_jax.errors import ConfigError
from sfda_jax.train.optim import OptimizerSettings, make_optimizer, make_schedule

PARAMS = {
    "backbone": {"conv": jnp.asarray([1.0, -2.0])},
    "head": {"bias": jnp.asarray([0.5])},
}
GRADS = [jax.tree.map(lambda p, k=k: jnp.sin(p + k), PARAMS) for k in (0.0, 1.0, 2.0)]


def _run(settings):
    optimizer = make_optimizer(settings)
    params, state = PARAMS, optimizer.init(PARAMS)
    for grads in GRADS:
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def test_sgd_is_torch_sgd():
    settings = OptimizerSettings(
        learning_rate=0.1, max_steps=10, weight_decay=0.01, head_multiplier=10.0
    )
    params, state = _run(settings)
    for group, factor in (("backbone", 1), ("head", 10)):
        (name,) = PARAMS[group]
        w, momentum = np.asarray(PARAMS[group][name], np.float64), 0.0
        for t, grads in enumerate(GRADS):
            momentum = 0.9 * momentum + grads[group][name] + 0.01 * w
            w = w - factor * 0.1 * (1 - t / 10) ** 0.9 * momentum
        np.testing.assert_allclose(params[group][name], w, rtol=1e-5)
    rate = optax.tree.get(state, "learning_rate")
    np.testing.assert_allclose(rate, 0.1 * 0.8**0.9, rtol=1e-6)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_adam_equals_optax(name):
    settings = OptimizerSettings(
        name=name,
        learning_rate=0.1,
        schedule="constant",
        weight_decay=0.01,
        head_multiplier=1.0,
    )
    reference = {
        "adam": optax.chain(optax.add_decayed_weights(0.01), optax.adam(0.1)),
        "adamw": optax.adamw(0.1, weight_decay=0.01),
    }[name]
    ours, _ = _run(settings)
    with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integers
        params, state = PARAMS, reference.init(PARAMS)
        for grads in GRADS:
            updates, state = reference.update(grads, state, params)
            params = optax.apply_updates(params, updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), ours, params)


def test_clipping_is_global():
    settings = OptimizerSettings(
        learning_rate=1.0,
        schedule="constant",
        momentum=0.0,
        weight_decay=0.0,
        head_multiplier=1.0,
        clip_norm=0.5,
    )
    optimizer = make_optimizer(settings)
    updates, _ = optimizer.update(GRADS[0], optimizer.init(PARAMS), PARAMS)
    np.testing.assert_allclose(optax.tree.norm(updates), 0.5, rtol=1e-5)


def test_schedules():
    steps = jnp.asarray([0, 5, 10, 12])
    cosine = make_schedule(
        OptimizerSettings(learning_rate=2.0, schedule="cosine", max_steps=10)
    )
    np.testing.assert_allclose(cosine(steps), [2, 1, 0, 0], atol=1e-6)
    warm = make_schedule(
        OptimizerSettings(learning_rate=2.0, schedule="constant", warmup_steps=10)
    )
    np.testing.assert_allclose(warm(steps), [0.2, 1.2, 2, 2], rtol=1e-6)


def test_unknown_names():
    with pytest.raises(ConfigError, match="'adamw'"):
        OptimizerSettings(name="adamww")
    with pytest.raises(ConfigError, match="schedule"):
        OptimizerSettings(schedule="step")
