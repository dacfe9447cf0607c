"""IAST's learning rates."""

import jax
import jax.numpy as jnp
import numpy as np

from sfda_jax.train.optim import OptimizerSettings, make_schedule

SYSTEM = "iast"
_BACKBONE = 0.1


def check_rates(expected, iters, base, *, rtol=1e-12, **schedule):
    """Both groups, in float64 (`rtol`) and float32, against the recorded `[n, 2]`.

    Our base rate is the backbone's, the decoder's is a multiple of it.
    """
    settings = OptimizerSettings(learning_rate=_BACKBONE * base, **schedule)
    rate = make_schedule(settings)
    for column, multiplier in enumerate((1.0, 1 / _BACKBONE)):
        found = multiplier * rate(np.asarray(iters), multiplier)
        np.testing.assert_allclose(found, expected[:, column], rtol=rtol)
        on_device = jax.jit(lambda t, m=multiplier: m * rate(t, m))
        found = on_device(jnp.asarray(iters, jnp.int32))
        np.testing.assert_allclose(found, expected[:, column], rtol=1e-6)


def check_schedule(path):
    case = np.load(path)
    for key in case.files:
        if not key.endswith("_lr") or key.endswith("base_lr"):
            continue
        expected, name = case[key], key.removesuffix("_lr")
        base = float(case[f"{name}_base_lr"])
        iters = np.arange(len(expected))
        if f"{name}_iters" in case.files:
            iters = case[f"{name}_iters"]
        if f"{name}_total" in case.files:
            total = int(case[f"{name}_total"])
            check_rates(expected, iters, base, schedule="poly", max_steps=total)
            continue
        growth = 1.0
        if f"{name}_T_mult" in case.files:
            growth = float(case[f"{name}_T_mult"])
        check_rates(
            expected,
            iters,
            base,
            schedule="cosine_restart",
            restart_steps=int(case[f"{name}_T_max"]),
            restart_factor=growth,
            end_rate=float(case[f"{name}_eta_min"]),
        )


CHECKERS = {"lr_schedule*.npz": check_schedule}
