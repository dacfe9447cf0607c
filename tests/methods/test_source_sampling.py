import numpy as np
import pytest

from sfda_jax.data.sampling import temperature_order, temperature_probabilities
from sfda_jax.errors import ConfigError, DataError
from sfda_jax.methods import source_only
from sfda_jax.types import AdaptState, ModelState
from tests.methods.stand_ins import Context, make_images, make_model, make_task

UNTRAINED = AdaptState(
    step=0, student=ModelState({}, {}), teacher=None, opt_state=(), method=None
)


def _records(count=20):
    """Class 0 everywhere, class 1 in images 3 and 7, class 2 nearly nowhere."""
    records = make_images(count)
    for record in records:
        record["label"] = np.zeros((32, 48), np.uint8)
    for i in (3, 7):
        records[i]["label"][:4] = 1
    records[5]["label"][0, 0] = 2
    return records


def _order(num_steps=150, **settings):
    method = source_only.Method(
        model=make_model(), task=make_task(), batch_size=2, **settings
    )
    ctx = Context(_records(), method.task, num_steps=num_steps)
    _, streams = method.begin_round(ctx, UNTRAINED)
    return streams["source"].order


def test_uniform_needs_no_order():
    assert _order() is None


def test_one_order_is_repeated_in_whole_batches():
    order = _order(sampling="fixed")
    np.testing.assert_array_equal(np.sort(order), np.arange(20))
    np.testing.assert_array_equal(_order(num_steps=3, sampling="fixed"), order)


def test_sized_crops():
    method = source_only.Method(
        model=make_model(), task=make_task(), crop_size=(16, 24), crop_heights=(10, 20)
    )
    records = _records()
    _, streams = method.begin_round(Context(records, method.task), UNTRAINED)
    arrays = streams["source"].transform(records[0], np.random.default_rng(0))
    assert arrays["images"].shape == (16, 24, 3)
    assert arrays["labels"].shape == (16, 24)
    with pytest.raises(ConfigError, match="crop_heights"):
        source_only.Method(model=make_model(), task=make_task(), crop_heights=(10, 20))


@pytest.mark.parametrize("sampling", ["rare_class", "temperature"])
def test_images_with_rare_classes_come_more_often(sampling):
    order = _order(sampling=sampling, sub_epoch=50)
    assert len(order) == 300
    share = np.isin(order, (3, 7)).mean()
    assert share > 0.3  # two of twenty images
    np.testing.assert_array_equal(order, _order(sampling=sampling, sub_epoch=50))


def test_unknown_sampling():
    with pytest.raises(ConfigError, match="Did you mean 'rare_class'"):
        _order(sampling="rare_clas")


def test_temperature():
    totals = np.array([700, 0, 100, 200])
    classes, cold = temperature_probabilities(totals, 0.05)
    assert classes.tolist() == [2, 3, 0]
    assert cold[0] > cold[1] > cold[2]
    np.testing.assert_allclose(cold.sum(), 1, rtol=1e-6)
    _, hot = temperature_probabilities(totals, float("inf"))
    np.testing.assert_allclose(hot, 1 / 3, rtol=1e-6)


def test_classes_without_an_image_are_not_drawn():
    counts = np.array([[90, 0], [90, 2]])
    settings = {"num_samples": 50, "temperature": 0.01}
    rng = np.random.default_rng(0)
    order = temperature_order(counts, rng, min_pixels=10, **settings)
    assert set(order.tolist()) == {0, 1}
    order = temperature_order(counts, rng, min_pixels=1, **settings)
    assert set(order.tolist()) == {1}  # the rare class, nearly always
    with pytest.raises(DataError, match="No class has 100 pixels"):
        temperature_order(counts, rng, min_pixels=100, **settings)
