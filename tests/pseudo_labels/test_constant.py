import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sfda_jax.errors import ConfigError
from sfda_jax.pseudo_labels.constant import Selector
from sfda_jax.pseudo_labels.threshold import lowest_reaching
from sfda_jax.types import IGNORE

PROBS = jnp.asarray([[[[0.75, 0.25], [0.5, 0.5], [0.125, 0.875]]]])


def label(selector):
    state = selector.init(2)
    proposed = jax.jit(selector.propose)(PROBS, jnp.asarray(selector.thresholds(state)))
    state, labels = selector.select(state, jax.device_get(proposed))
    return labels.tolist(), selector.summary(state)


def test_reaching_is_enough():
    labels, summary = label(Selector(threshold=0.75))
    assert labels == [[[0, IGNORE, 1]]]
    assert summary == {"thresholds": [0.75, 0.75]}


def test_per_class():
    labels, _ = label(Selector(per_class=(0.5, 0.9)))
    assert labels == [[[0, 0, IGNORE]]]


def test_wrong_number_of_classes():
    with pytest.raises(ConfigError, match="holds 3 thresholds; the task has 2"):
        Selector(per_class=(0.5, 0.9, 0.9)).init(2)


def test_float32_comparison_equals_the_float64_one():
    rng = np.random.default_rng(0)
    confidence = rng.random(2000).astype(np.float32)
    near = confidence + rng.choice([-1e-9, 0, 1e-9], 2000)
    for thresholds in (confidence.astype(np.float64), near):
        np.testing.assert_array_equal(
            confidence >= lowest_reaching(thresholds),
            confidence.astype(np.float64) >= thresholds,
        )
