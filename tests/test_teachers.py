import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sfda_jax import teachers
from sfda_jax.errors import ConfigError
from sfda_jax.types import ModelState


def test_ema_says_what_it_does_to_statistics():
    teacher = ModelState({"w": jnp.ones(2)}, {"mean": jnp.zeros(2)})
    student = ModelState({"w": jnp.zeros(2)}, {"mean": jnp.ones(2)})
    for mode, expected in (("leave", 0.0), ("copy", 1.0), ("average", 0.1)):
        moved = teachers.ema(teacher, student, decay=0.9, batch_stats=mode)
        np.testing.assert_allclose(moved.params["w"], 0.9, rtol=1e-6)
        np.testing.assert_allclose(moved.batch_stats["mean"], expected, rtol=1e-6)


def test_capacity():
    assert teachers.UpdateRule().capacity == 33
    assert teachers.UpdateRule(start=2, step=1, maximum=3).capacity == 4
    images = teachers.UpdateRule(
        start=10, step=5, maximum=21, count="images", per_iteration=4
    )
    assert images.capacity == 10
    never = teachers.UpdateRule(
        start=9, step=2, maximum=20, count="images", per_iteration=2
    )
    with pytest.raises(ConfigError, match="never decides"):
        _ = never.capacity


@pytest.mark.parametrize("gain, length", [(0.1, 2), (0.0, 4), (-0.1, 4)])
def test_decisions(gain, length):
    rule = teachers.UpdateRule(start=2, step=1, maximum=3)
    state = rule.init({"x": jnp.zeros(3)})

    @jax.jit
    def advance(state, x):
        state = rule.push(state, x[:1], {"x": x})
        return rule.decide(state, lambda inputs: inputs["x"][:1] + gain)

    intervals = []
    for t in range(8):
        state = advance(state, jnp.full(3, float(t)))
        if state.updated:
            intervals.append(int(state.interval))
            assert state.count == 0
    assert intervals == [length] * (8 // length)
    assert state.num_updates == len(intervals)
    np.testing.assert_allclose(state.mean_new - state.mean_old, gain, atol=1e-6)
