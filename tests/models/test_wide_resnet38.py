import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sfda_jax.errors import ConfigError
from sfda_jax.models import wide_resnet38
from sfda_jax.weights.layout import init_state
from tests.models import drawn

SMALL = wide_resnet38.Model(
    num_classes=5,
    stem_channels=4,
    planes=((4, 4), (4, 4), (4, 4), (4, 6), (4, 6, 8), (6, 8, 10)),
    blocks=(1, 1, 1, 2, 1, 1),
    head_planes=4,
)
_ANY = jnp.zeros((1, 33, 33, 3))


def _images(*shape):
    return jnp.asarray(np.random.default_rng(1).normal(size=shape), jnp.float32)


@pytest.mark.parametrize("size", [(64, 48), (33, 47), (57, 9)])
def test_sizes_are_halved_and_rounded_up_three_times(size):
    variables = drawn.variables(SMALL.init, _ANY)
    output = jax.jit(SMALL.apply)(variables, _images(1, *size, 3))
    expected = tuple(-(-side // 8) for side in size)
    assert output.logits.shape == (1, *expected, 5)
    assert output.features.shape == (1, *expected, 10)
    again = SMALL.apply(variables, output.features, method="classify")
    np.testing.assert_allclose(again, output.logits, rtol=1e-5, atol=1e-5)


def test_strides_beyond_8_become_dilation_of_all_but_the_first_convolution():
    blocks = SMALL.bind(drawn.variables(SMALL.init, _ANY)).backbone
    found = {
        name: (getattr(blocks, name).stride, getattr(blocks, name).dilations)
        for name in ("layer4_0", "layer5_0", "layer5_1", "layer6_0", "layer7_0")
    }
    assert found == {
        "layer4_0": (2, (1, 1)),
        "layer5_0": (1, (1, 2)),
        "layer5_1": (1, (2, 2)),
        "layer6_0": (1, (2, 4)),
        "layer7_0": (1, (4, 4)),
    }


def test_published_training_leaves_the_statistics_alone():
    images = _images(2, 32, 32, 3)
    variables = drawn.variables(SMALL.init, _ANY)

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def run(model, use_running_average):
        return model.apply(
            variables,
            images,
            use_running_average=use_running_average,
            mutable=["batch_stats"],
        )

    stored, unchanged = run(SMALL, True)
    output, statistics = run(SMALL, False)
    np.testing.assert_array_equal(output.logits, stored.logits)
    jax.tree.map(np.testing.assert_array_equal, statistics, unchanged)
    other, moved = run(SMALL.clone(fixed_bn=False), False)
    assert not np.allclose(other.logits, stored.logits)
    before, after = (s["batch_stats"]["backbone"]["bn7"] for s in (unchanged, moved))
    assert not np.allclose(before["mean"], after["mean"])


def test_dropout_acts_in_the_last_two_levels_only():
    variables = drawn.variables(SMALL.init, _ANY)
    images = _images(1, 16, 16, 3)

    @functools.partial(jax.jit, static_argnums=0)
    def features(model, seed, variables):
        return model.apply(
            variables,
            images,
            rngs={"dropout": jax.random.key(seed)},
            deterministic=False,
            method="features",
        )

    first, second = (features(SMALL, seed, variables) for seed in range(2))
    assert not np.allclose(first, second)
    # Levels 2 to 5 alone, which have no dropout.
    shallow = SMALL.clone(
        **{
            name: getattr(SMALL, name)[:4]
            for name in ("planes", "blocks", "strides", "dropouts")
        }
    )
    variables = drawn.variables(shallow.init, _ANY)
    first, second = (features(shallow, seed, variables) for seed in range(2))
    np.testing.assert_array_equal(first, second)


def test_scan_and_remat_change_no_value():
    plain = SMALL.clone(blocks=(1, 1, 6, 1, 1, 1))
    variables = drawn.variables(plain.init, _ANY)
    images = _images(1, 40, 48, 3)
    scanned = plain.clone(scan_blocks=True, remat=("layer6",))
    y, other_y = (
        jax.jit(model.apply)(variables, images).logits for model in (plain, scanned)
    )
    np.testing.assert_allclose(other_y, y, rtol=1e-5, atol=1e-5)


def test_bfloat16_gives_float32_outputs():
    variables = drawn.variables(SMALL.init, _ANY)
    images = _images(1, 41, 67, 3)
    full = jax.jit(SMALL.apply)(variables, images)
    half = jax.jit(SMALL.clone(dtype="bfloat16").apply)(variables, images)
    assert half.logits.dtype == half.features.dtype == jnp.float32
    scale = float(jnp.abs(full.logits).max())
    np.testing.assert_allclose(half.logits, full.logits, rtol=0.1, atol=0.1 * scale)


def test_a_fresh_head_is_the_published_one():
    head = init_state(SMALL.clone(head_planes=256), jax.random.key(0)).params["head"]
    kernel = np.asarray(head["conv1"]["kernel"])
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (9 * 10)), rtol=0.05)
    assert not head["conv1"]["bias"].any() and not head["classifier"]["bias"].any()


def test_unknown_level_to_rematerialise():
    with pytest.raises(ConfigError, match="layer1"):
        drawn.variables(SMALL.clone(remat=("layer1",)).init, _ANY)
