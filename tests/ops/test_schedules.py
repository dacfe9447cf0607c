import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sfda_jax.ops.schedules import (
    cosine,
    cosine_restart,
    poly,
    ramp_up,
    warm_poly,
    warm_up,
)

STEPS = np.arange(40)
SCHEDULES = {
    "poly": lambda t: poly(t, base=0.2, max_steps=30, end=1e-3),
    "cosine": lambda t: cosine(t, base=0.2, max_steps=37),
    "restart": lambda t: cosine_restart(
        t, base=0.2, end=1e-5, restart_steps=7, restart_factor=1.5
    ),
    "warm_poly": lambda t: warm_poly(
        t, base=0.2, max_steps=30, end=1e-3, warmup_steps=9
    ),
    "late_poly": lambda t: warm_poly(t, base=0.2, max_steps=30, end=1e-3),
    "warm_up": lambda t: warm_up(t, 9),
    "ramp_up": lambda t: ramp_up(t, start=3, length=20),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_both_precisions(name):
    schedule = SCHEDULES[name]
    double, single = schedule(STEPS), jax.jit(schedule)(jnp.asarray(STEPS, jnp.int32))
    assert (double.dtype, single.dtype) == (np.float64, np.float32)
    # Half a cosine without a floor loses digits near its end in either precision.
    absolute = 2e-8 if name == "cosine" else 0
    np.testing.assert_allclose(single, double, rtol=1e-6, atol=absolute)


def test_poly_ends_at_its_floor():
    rates = poly(STEPS, base=1.0, max_steps=10, power=1.0, end=0.25)
    np.testing.assert_allclose(rates[:9], [1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.25])
    assert (rates[8:] == 0.25).all()
    assert (poly(STEPS, base=0.3, max_steps=10, power=0.0) == 0.3).all()


def test_poly_before_its_first_step():
    rates = poly(STEPS[:3] - 2, base=1.0, max_steps=10, power=1.0)
    np.testing.assert_allclose(rates, [1.2, 1.1, 1.0])


def test_warm_poly_rises_from_zero_and_ends_between_its_rates():
    rates = warm_poly(STEPS, base=1.0, max_steps=12, power=2.0, end=0.1, warmup_steps=4)
    np.testing.assert_allclose(rates[:5], [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(rates[8], 0.1 + 0.9 * 0.5**2)
    assert (np.diff(rates[4:13]) < 0).all()
    assert (rates[12:] == 0.1).all()


def test_warm_poly_without_warm_up_is_one_step_ahead():
    rates = warm_poly(STEPS, base=1.0, max_steps=10, power=1.0, end=0.0)
    np.testing.assert_allclose(rates[:3], [0.9, 0.8, 0.7])
    assert (rates[9:] == 0).all()


def test_base_rate_is_used_once():
    rates = cosine_restart(STEPS, base=1.0, end=0.1, restart_steps=5)
    assert rates[0] == 1
    assert (rates[1:] < 0.95).all()
    np.testing.assert_array_equal(rates[5::5], 0.1)
    np.testing.assert_array_equal(rates[1:6], rates[6:11])


def test_cycles_grow_by_whole_steps():
    rates = cosine_restart(
        STEPS, base=1.0, end=0.0, restart_steps=3, restart_factor=1.5
    )
    # Lengths int(1.5 T): 3, 4, 6, 9, 13.
    np.testing.assert_array_equal(np.flatnonzero(rates == 0), [3, 7, 13, 22, 35])


def test_cycles_too_short_to_grow():
    rates = cosine_restart(STEPS, base=1.0, restart_steps=5, restart_factor=1.1)
    np.testing.assert_array_equal(
        np.flatnonzero(rates == 0), [5, 10, 15, 20, 25, 30, 35]
    )


def test_float32_keeps_its_digits_near_the_end():
    steps = np.arange(24_900, 24_937)
    rates = [
        cosine_restart(t, base=1e-4, end=1e-7, restart_steps=24_936)
        for t in (steps, jnp.asarray(steps, jnp.int32))
    ]
    np.testing.assert_allclose(rates[1], rates[0], rtol=1e-6)


def test_ramp_up():
    rates = ramp_up(STEPS, start=3, length=20)
    assert (rates[:4] == np.exp(-5)).all()
    assert (np.diff(rates[3:24]) > 0).all()
    np.testing.assert_allclose(rates[13], np.exp(-5 / 4))
    assert (rates[23:] == 1).all()
    assert (ramp_up(STEPS, length=0) == 1).all()
