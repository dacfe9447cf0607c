import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sfda_jax.errors import ConfigError, TrainingError
from sfda_jax.ops.processes import total
from sfda_jax.pseudo_labels import density_threshold
from sfda_jax.pseudo_labels.selector import Selector
from sfda_jax.types import IGNORE

CLASSES = 4


def densities(count=5, size=(12, 17), seed=0):
    """Log-densities around -50; the last class never wins."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(-50, 60, (count, *size, CLASSES)).astype(np.float32)
    scores[..., -1] = -1e8
    return scores


def measured_state(selector, scores, scratch, *, batch_size=2):
    state = selector.init(CLASSES)
    for _ in range(selector.num_measures):
        for start in range(0, len(scores), batch_size):
            batch = jnp.asarray(scores[start : start + batch_size])
            measured = jax.device_get(selector.measure(batch))
            state = selector.update(state, measured, scratch=scratch)
        state = selector.settle(state, scratch=scratch, total=total)
    return state


def labels_of(selector, state, scores):
    limits = jnp.asarray(selector.thresholds(state))
    proposed = jax.device_get(selector.propose(jnp.asarray(scores), limits))
    return selector.select(state, proposed)[1]


def test_it_is_a_selector():
    assert isinstance(density_threshold.Selector(), Selector)
    assert density_threshold.Selector().num_measures == 0
    assert density_threshold.Selector(quantile=0.0).num_measures == 2


def test_equal_is_kept_and_the_first_class_wins():
    scores = np.array([[[[7, 7, 0, 0], [0, 5, 5, 1], [4.9, 4.9, 3, 3]]]], np.float32)
    selector = density_threshold.Selector(absolute=(5.0,))
    state = selector.init(CLASSES)
    assert labels_of(selector, state, scores)[0, 0].tolist() == [0, 1, IGNORE]


def test_a_threshold_that_float32_does_not_know():
    """The nearest float32 to 0.3 lies above it, the one before it is not kept."""
    above = np.float32(0.3)
    below = np.nextafter(above, np.float32(0))
    assert float(below) < 0.3 < float(above)
    scores = np.array([[[[below, -1], [above, -1]]]], np.float32)
    selector = density_threshold.Selector(absolute=(0.3,))
    found = labels_of(selector, selector.init(2), scores)
    assert found[0, 0].tolist() == [IGNORE, 0]
    nearest = np.float32(0.7)
    assert float(nearest) < 0.7
    scores[..., 0] = nearest
    selector = density_threshold.Selector(absolute=(0.7,))
    found = labels_of(selector, selector.init(2), scores)
    assert found[0, 0].tolist() == [IGNORE, IGNORE]


def test_one_threshold_for_each_class():
    selector = density_threshold.Selector(absolute=(-10.0, 20.0, 60.0, 0.0))
    scores = densities()
    found = labels_of(selector, selector.init(CLASSES), scores)
    best, sure = scores.argmax(-1), scores.max(-1)
    expected = np.where(sure >= np.array(selector.absolute)[best], best, IGNORE)
    np.testing.assert_array_equal(found, expected)
    assert {0, 1, 2, IGNORE} == set(np.unique(found))


@pytest.mark.parametrize("quantile", [0.0, 0.3, 0.999])
@pytest.mark.parametrize("stride", [1, 3])
def test_quantiles_of_each_predicted_class(tmp_path, quantile, stride):
    selector = density_threshold.Selector(quantile=quantile, stride=stride)
    scores = densities()
    state = measured_state(selector, scores, tmp_path)
    counted = scores[:, ::stride, ::stride]
    best, sure = counted.argmax(-1), counted.max(-1)
    for class_ in range(CLASSES - 1):
        own = np.sort(sure[best == class_])
        expected = own[int(np.floor(len(own) * quantile))]
        assert selector.thresholds(state)[class_] == expected
        assert state["pixels"][class_] == len(own)
    if stride == 1:
        found = labels_of(selector, state, scores)
        kept = np.bincount(found[found != IGNORE], minlength=CLASSES)
        rejected = np.floor(state["pixels"] * quantile)
        np.testing.assert_array_equal(kept, state["pixels"] - rejected)


def test_a_class_without_pixels_keeps_none(tmp_path):
    selector = density_threshold.Selector(quantile=0.5)
    state = measured_state(selector, densities(), tmp_path)
    summary = selector.summary(state)
    assert np.isfinite(summary["thresholds"]).all()
    assert summary["pixels"][-1] == 0
    scores = np.zeros((1, 1, 1, CLASSES), np.float32)
    scores[..., -1] = 1e6
    assert labels_of(selector, state, scores).item() == IGNORE


def test_batches_do_not_matter(tmp_path):
    selector, scores = density_threshold.Selector(quantile=0.4), densities()
    found = [
        measured_state(selector, scores, tmp_path, batch_size=size) for size in (1, 5)
    ]
    for name, value in found[0].items():
        np.testing.assert_array_equal(value, found[1][name])


def test_numbers_that_are_none(tmp_path):
    scores = densities()
    scores[1, 4, 8] = np.nan
    with pytest.raises(TrainingError, match="not finite"):
        measured_state(density_threshold.Selector(quantile=0.5), scores, tmp_path)


@pytest.mark.parametrize("settings", [{"quantile": 1.0}, {"stride": 0}])
def test_settings_that_mean_nothing(settings):
    with pytest.raises(ConfigError):
        density_threshold.Selector(**settings)


def test_thresholds_of_another_class_space():
    with pytest.raises(ConfigError, match="3 thresholds for 4 classes"):
        density_threshold.Selector(absolute=(1.0, 2.0, 3.0)).init(CLASSES)
