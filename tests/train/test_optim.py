import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

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


def test_warm_poly_leads_all_groups_to_one_rate():
    settings = OptimizerSettings(
        learning_rate=0.2,
        schedule="warm_poly",
        warmup_steps=4,
        max_steps=10,
        end_rate=0.01,
        head_multiplier=10.0,
    )
    schedule, steps = make_schedule(settings), np.asarray([0, 2, 4, 7, 10, 12])
    for multiplier in (1.0, 10.0):
        base = 0.2 * multiplier
        middle = 0.01 + (base - 0.01) * 0.5**0.9
        np.testing.assert_allclose(
            multiplier * schedule(steps, multiplier),
            [0, base / 2, base, middle, 0.01, 0.01],
            rtol=1e-12,
        )
    # a first step of rate 0 moves nothing, but fills the momentum
    optimizer = make_optimizer(settings)
    updates, state = optimizer.update(GRADS[0], optimizer.init(PARAMS), PARAMS)
    assert not any(np.any(update) for update in jax.tree.leaves(updates))
    moments = optax.tree.get(state, "trace")
    assert all(np.any(leaf) for leaf in jax.tree.leaves(moments))


def test_warm_up_must_leave_steps():
    with pytest.raises(ConfigError, match="warmup_steps is 10 of max_steps 10"):
        OptimizerSettings(schedule="warm_poly", warmup_steps=10, max_steps=10)


LAYERS = {
    "backbone": {
        "conv1": {"kernel": jnp.asarray([0.3, -0.0])},
        "layer1_0": {
            "conv1": {"kernel": jnp.asarray([1.0, -2.0])},
            "bn1": {"scale": jnp.asarray([1.5]), "bias": jnp.asarray([-0.0])},
            "downsample_conv": {"kernel": jnp.asarray([0.7])},
        },
    },
    "head": {"bias": jnp.asarray([0.5])},
}
KINDS = [
    *({"name": name} for name in ("sgd", "mxnet_sgd", "adam", "adamw")),
    *({"visits": visits} for visits in ("published", "modern")),
]


def _walk(settings, steps=range(3), params=LAYERS, state=None):
    optimizer = make_optimizer(settings)
    state = optimizer.init(params) if state is None else state
    update = jax.jit(optimizer.update)
    for k in steps:
        grads = jax.tree.map(lambda p, k=k: jnp.sin(p + k + 1), LAYERS)
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def _assert_same_bits(found, expected):
    def same(a, b):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()

    jax.tree.map(same, found, expected)


def test_mxnet_sgd_has_the_rate_inside_its_momentum():
    settings = OptimizerSettings(
        name="mxnet_sgd",
        groups="cbst",
        learning_rate=0.1,
        power=1.0,
        max_steps=4,
        weight_decay=0.01,
    )
    params, state = _walk(settings)
    flat = traverse_util.flatten_dict
    for path, w in flat(LAYERS).items():
        rate, decay = (2.0, 0.0) if path[-1] == "bias" else (1.0, 0.01)
        start = w = np.asarray(w, np.float64)
        momentum = 0.0
        for t in range(3):
            gradient = np.sin(start + t + 1)
            scheduled = 0.1 * (1 - t / 4) * rate
            momentum = 0.9 * momentum - scheduled * (gradient + decay * w)
            w = w + momentum
        np.testing.assert_allclose(flat(params)[path], w, rtol=1e-5, err_msg=path)
    np.testing.assert_allclose(optax.tree.get(state, "learning_rate"), 0.05, rtol=1e-6)


@pytest.mark.parametrize("visits", ["published", "modern"])
def test_repeated_visits(visits):
    settings = OptimizerSettings(
        learning_rate=0.1, schedule="constant", weight_decay=0.02, visits=visits
    )
    params, _ = _walk(settings)
    flat = traverse_util.flatten_dict
    for path, w in flat(LAYERS).items():
        count = 4 if "downsample_conv" in path else 3 if "layer1_0" in path else 1
        rate = 1.0 if path[0] == "head" else 0.1
        start = w = np.asarray(w, np.float64)
        momentum = 0.0
        for t in range(3):
            gradient = decayed = np.sin(start + t + 1)
            for _ in range(count):
                if visits == "modern":
                    decayed = gradient + 0.02 * w
                    fresh = t == 0
                else:
                    decayed = decayed + 0.02 * w
                    fresh = False
                momentum = decayed if fresh else 0.9 * momentum + decayed
                w = w - rate * momentum
        np.testing.assert_allclose(flat(params)[path], w, rtol=1e-5, err_msg=path)


def test_groups_of_mmseg():
    params = {
        "backbone": {"norm1": {"scale": jnp.ones(1)}, "attn": {"bias": jnp.ones(1)}},
        "projection": {"kernel": jnp.ones(1)},
    }
    settings = OptimizerSettings(
        groups="mmseg",
        learning_rate=0.5,
        schedule="constant",
        momentum=0.0,
        weight_decay=0.1,
        head_multiplier=4.0,
    )
    optimizer = make_optimizer(settings)
    gradients = jax.tree.map(jnp.ones_like, params)
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    moved = [float(leaf[0]) for leaf in jax.tree.leaves(updates)]
    np.testing.assert_allclose(moved, [-0.55, -0.5, -2.2], rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_frozen_parameters_keep_every_bit(kind):
    settings = OptimizerSettings(
        learning_rate=0.1, freeze=("*/bn?/*", "backbone/conv1/*"), **kind
    )
    params, state = _walk(settings, range(10))
    frozen = {
        "backbone": {
            "conv1": LAYERS["backbone"]["conv1"],
            "layer1_0": {"bn1": LAYERS["backbone"]["layer1_0"]["bn1"]},
        }
    }
    backbone = params["backbone"]
    kept = {
        "backbone": {
            "conv1": backbone["conv1"],
            "layer1_0": {"bn1": backbone["layer1_0"]["bn1"]},
        }
    }
    _assert_same_bits(kept, frozen)
    moved, original = backbone["layer1_0"]["conv1"], LAYERS["backbone"]["layer1_0"]
    assert (moved["kernel"] != original["conv1"]["kernel"]).all()
    # Not even not-a-number gets through.
    optimizer = make_optimizer(settings)
    gradients = jax.tree.map(lambda p: jnp.full_like(p, jnp.nan), LAYERS)
    updates, _ = optimizer.update(gradients, state, params)
    after = optax.apply_updates(params, updates)["backbone"]
    _assert_same_bits(after["conv1"], LAYERS["backbone"]["conv1"])


def test_frozen_parameters_do_not_count_in_the_norm():
    settings = OptimizerSettings(
        learning_rate=1.0,
        schedule="constant",
        momentum=0.0,
        weight_decay=0.0,
        head_multiplier=1.0,
        clip_norm=0.5,
        freeze=("backbone/*",),
    )
    optimizer = make_optimizer(settings)
    updates, _ = optimizer.update(GRADS[0], optimizer.init(PARAMS), PARAMS)
    np.testing.assert_allclose(updates["head"]["bias"], -np.sin([0.5]), rtol=1e-6)


def test_a_pattern_that_freezes_nothing():
    settings = OptimizerSettings(freeze=("head/*", "backbone/layer1_0/bn1/scael"))
    optimizer = make_optimizer(settings)
    with pytest.raises(ConfigError, match="Did you mean 'backbone/layer1_0/bn1/scale'"):
        jax.eval_shape(optimizer.init, LAYERS)


def test_groups_share_the_last_rate():
    settings = OptimizerSettings(
        learning_rate=0.1,
        schedule="cosine_restart",
        restart_steps=2,
        end_rate=0.003,
        momentum=0.0,
        weight_decay=0.0,
        head_multiplier=10.0,
    )
    optimizer = make_optimizer(settings)
    state = optimizer.init(PARAMS)
    ones = jax.tree.map(jnp.ones_like, PARAMS)
    rates = []
    for _ in range(5):
        updates, state = optimizer.update(ones, state, PARAMS)
        logged = optax.tree.get(state, "learning_rate")
        np.testing.assert_allclose(logged, -updates["backbone"]["conv"][0], rtol=1e-6)
        rates.append((float(logged), -float(updates["head"]["bias"][0])))
    middle = (0.003 + 0.097 / 2, 0.003 + 0.997 / 2)
    expected = [(0.1, 1.0), middle, (0.003, 0.003), middle, (0.003, 0.003)]
    np.testing.assert_allclose(rates, expected, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_resumes_from_plain_arrays(kind):
    settings = OptimizerSettings(learning_rate=0.1, freeze=("head/*",), **kind)
    params, state = _walk(settings, range(2))
    leaves, structure = jax.tree.flatten(state)
    assert all(isinstance(leaf, jax.Array) for leaf in leaves)
    restored = structure.unflatten([jnp.asarray(np.asarray(leaf)) for leaf in leaves])
    resumed = _walk(settings, range(2, 4), params, restored)
    _assert_same_bits(resumed, _walk(settings, range(4)))
    assert optax.tree.get(state, "learning_rate").shape == ()


def test_unknown_names():
    with pytest.raises(ConfigError, match="'adamw'"):
        OptimizerSettings(name="adamww")
    with pytest.raises(ConfigError, match="schedule"):
        OptimizerSettings(schedule="step")
    with pytest.raises(ConfigError, match="groups"):
        OptimizerSettings(groups="heads")


def test_settings_that_exclude_each_other():
    with pytest.raises(ConfigError, match="visits"):
        OptimizerSettings(name="adam", visits="published")
    with pytest.raises(ConfigError, match="restart_steps"):
        OptimizerSettings(schedule="cosine_restart")
