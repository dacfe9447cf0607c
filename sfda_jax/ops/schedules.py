"""Learning-rate schedules: pure functions of the number of steps taken.

They take a JAX array and compute in float32 on the device, or a NumPy array and compute
in float64. Differences of step numbers are exact integers, so float32 keeps its seven
digits where a rate comes near its end.
"""

import functools
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

Steps = Int[Array, "*n"] | Int[np.ndarray, "*n"]
Rates = Float[Array, "*n"] | Float[np.ndarray, "*n"]

_MOST_STEPS = 2**31 - 1


def poly(
    step: Steps, *, base: float, max_steps: int, power: float = 0.9, end: float = 0.0
) -> Rates:
    """`max(base (1 - t/T)^power, end)`; `end` from step T on, linear with power 1.

    Args:
        step: steps taken, t.
        base: rate at step 0.
        max_steps: T.
        power: p; 0 keeps the rate constant.
        end: the least rate.

    Example:
        >>> poly(np.arange(3), base=0.2, max_steps=2, power=1.0, end=0.01)
        array([0.2 , 0.1 , 0.01])
    """
    xp = _namespace(step)
    rate = base * _left(step, max_steps) ** power
    return xp.maximum(rate, end) if end else rate


def cosine(step: Steps, *, base: float, max_steps: int) -> Rates:
    """Half a cosine from `base` at step 0 to 0 at step `max_steps`, then 0."""
    xp = _namespace(step)
    return base * (0.5 * (1 - xp.cos(xp.pi * _left(step, max_steps))))


def cosine_restart(
    step: Steps,
    *,
    base: float,
    restart_steps: int,
    end: float = 0.0,
    restart_factor: float = 1.0,
) -> Rates:
    """Half cosines from `base` to `end`, one after the other (IAST, section 5.5).

    A cycle of T steps uses positions 1 to T of its half cosine, its last step `end`
    itself; so `base` is used at step 0 alone and never after a restart.

    Args:
        step: steps taken.
        base: rate at step 0.
        restart_steps: T of the first cycle.
        end: rate at the end of every cycle; the same for groups of other base rates.
        restart_factor: a cycle has `int(T * restart_factor)` steps after one of T.
    """
    xp = _namespace(step)
    starts, lengths = _cycles(restart_steps, restart_factor)
    starts, lengths = (xp.asarray(x, step.dtype) for x in (starts, lengths))
    cycle = xp.maximum(xp.searchsorted(starts, step) - 1, 0)
    length, done = lengths[cycle], step - starts[cycle]
    # The last cycle known repeats; only step 0 stands at position 0 of a cycle.
    position = xp.where(done > 0, (done - 1) % length + 1, 0)
    dtype = _dtype(step)
    left = (length - position).astype(dtype) / length.astype(dtype)
    # (1 + cos pi n/T) / 2 cancels digits near its end; this square does not.
    return end + (base - end) * xp.square(xp.sin(xp.pi / 2 * left))


def warm_poly(
    step: Steps,
    *,
    base: float,
    max_steps: int,
    power: float = 0.9,
    end: float = 0.0,
    warmup_steps: int = 0,
) -> Rates:
    """From 0 up to `base` in W steps, then `(base - end) (1 - x)^p + end` (BiSMAP).

    With x = (t - W)/(T - W), or (t + 1)/T where W = 0, and at most 1 (bismap.md,
    section 7). Step 0 of a warm-up has rate 0; step W has `base` in full.

    Args:
        step: steps taken, t.
        base: the largest rate.
        max_steps: T, the warm-up included.
        power: p.
        end: rate from step T on; the same for groups of other base rates.
        warmup_steps: W.

    Example:
        >>> warm_poly(
        ...     np.arange(5), base=0.5, max_steps=4, power=1.0, end=0.1, warmup_steps=2
        ... )
        array([0.  , 0.25, 0.5 , 0.3 , 0.1 ])
    """
    xp, dtype = _namespace(step), _dtype(step)
    done = step if warmup_steps else step + 1
    left = xp.maximum(max_steps - done, 0).astype(dtype)
    rate = end + (base - end) * (left / dtype(max_steps - warmup_steps)) ** power
    if not warmup_steps:
        return rate
    return xp.where(
        step < warmup_steps, base * step.astype(dtype) / dtype(warmup_steps), rate
    )


def warm_up(step: Steps, steps: int) -> Rates:
    """Factor that rises linearly to 1: `min((t + 1) / steps, 1)`."""
    xp = _namespace(step)
    return xp.minimum((step + 1).astype(_dtype(step)) / steps, 1)


def ramp_up(step: Steps, *, length: int, start: int = 0) -> Rates:
    """Factor `exp(-5 (1 - x)^2)` that rises to 1, x from 0 to 1 over `length` steps.

    Of consistency losses (Laine & Aila, "Temporal Ensembling", ICLR 2017).

    Args:
        step: steps taken.
        length: of the rise; 0 makes the factor 1 at once.
        start: step until which x is 0.
    """
    xp, dtype = _namespace(step), _dtype(step)
    if not length:
        return xp.ones_like(step, dtype)
    left = (length - xp.clip(step - start, 0, length)).astype(dtype) / dtype(length)
    return xp.exp(-5 * xp.square(left))


def _left(step: Steps, max_steps: int) -> Rates:
    """(T - t) / T, not below 0."""
    xp, dtype = _namespace(step), _dtype(step)
    return xp.maximum(max_steps - step, 0).astype(dtype) / dtype(max_steps)


def _namespace(step: Steps) -> ModuleType:
    return jnp if isinstance(step, jax.Array) else np


def _dtype(step: Steps) -> type:
    return jnp.float32 if isinstance(step, jax.Array) else np.float64


@functools.cache
def _cycles(first: int, factor: float) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Start and length of every cycle, up to one that is as long as the next."""
    starts, lengths = [0], [first]
    while True:
        length = int(lengths[-1] * factor)
        start = starts[-1] + lengths[-1]
        if length <= lengths[-1] or start > _MOST_STEPS - length:
            return tuple(starts), tuple(lengths)
        starts.append(start)
        lengths.append(length)
