import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sfda_jax.data.image_ops import resize
from sfda_jax.errors import ConfigError
from sfda_jax.methods import adabn, source_only
from sfda_jax.ops.color import normalize
from sfda_jax.train.optim import OptimizerSettings, make_optimizer
from sfda_jax.train.step import make_train_step
from tests.methods.stand_ins import (
    Context,
    make_images,
    make_model,
    make_state,
    make_task,
)

OPTIMIZER = make_optimizer(OptimizerSettings(learning_rate=0.05, max_steps=100))


def test_source_only_fits_its_batch():
    method = source_only.Method(
        model=make_model(), task=make_task(), student_statistics="batch"
    )
    state = make_state(method, OPTIMIZER)
    records = make_images(2)
    labels = np.zeros((2, 32, 48), np.uint8)
    labels[1], labels[0, :4] = 3, 255
    batch = {
        "source": {"images": np.stack([r["image"] for r in records]), "labels": labels}
    }
    step = jax.jit(make_train_step(method, OPTIMIZER))
    losses = []
    for _ in range(12):
        state, metrics = step(state, batch, jax.random.key(0))
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.5 * losses[0]


def test_source_only_stream():
    method = source_only.Method(
        model=make_model(), task=make_task(), size=(24, 36), crop_size=(16, 16)
    )
    record = {**make_images(1)[0], "label": np.zeros((32, 48), np.uint8)}
    ctx = Context([record], method.task)
    _, streams = method.begin_round(ctx, make_state(method, OPTIMIZER))
    arrays = streams["source"].transform(record, np.random.default_rng(0))
    assert streams["source"].domain == "source"
    assert arrays["images"].shape == (16, 16, 3)
    with pytest.raises(ConfigError, match="running"):
        source_only.Method(
            model=make_model(), task=make_task(), student_statistics="runing"
        )


def _device_colours(**settings):
    return source_only.Method(
        model=make_model(), task=make_task(), photometric="device",
        jitter=(0.4, 0.4, 0.4, 0.1), blur_probability=0.5, **settings,
    )  # fmt: skip


def test_source_only_changes_colours_in_the_step():
    method = _device_colours()
    state = make_state(method, OPTIMIZER)
    images = np.stack([r["image"] for r in make_images(8)])
    batch = {"source": {"images": images, "labels": np.zeros((8, 32, 48), np.uint8)}}
    annotate = jax.jit(method.annotate)
    _, targets = annotate(state, batch, jax.random.key(0))
    assert (targets.images != normalize(images)).any((1, 2, 3)).all()
    _, again = annotate(state, batch, jax.random.key(0))
    np.testing.assert_array_equal(targets.images, again.images)
    _, other = annotate(state, batch, jax.random.key(1))
    assert (targets.images != other.images).any((1, 2, 3)).all()
    # Four devices with two images each draw the same decisions.
    local = dataclasses.replace(method, axis_name="data")

    @jax.jit
    @functools.partial(jax.vmap, axis_name="data")
    def spread(part):
        return local.annotate(state, part, jax.random.key(0))[1].images

    parts = spread(jax.tree.map(lambda x: x.reshape(4, 2, *x.shape[1:]), batch))
    np.testing.assert_allclose(parts.reshape(images.shape), targets.images, atol=1e-5)


def test_source_only_leaves_colours_to_the_device():
    method = _device_colours(size=(32, 48), gray_probability=1.0)
    record = {**make_images(1)[0], "label": np.zeros((32, 48), np.uint8)}
    ctx = Context([record], method.task)
    _, streams = method.begin_round(ctx, make_state(method, OPTIMIZER))
    arrays = streams["source"].transform(record, np.random.default_rng(0))
    np.testing.assert_array_equal(arrays["images"], record["image"])
    with pytest.raises(ConfigError, match="blur_probability"):
        source_only.Method(model=make_model(), task=make_task(), blur_probability=0.5)


@pytest.mark.parametrize("blend", [1.0, 0.25])
def test_adabn_pools_batches_exactly(blend):
    method = adabn.Method(
        model=make_model(), task=make_task(), batch_size=2, size=(32, 48), blend=blend
    )
    state = make_state(method, OPTIMIZER)
    records = make_images(4)
    ctx = Context(records, method.task)
    new, streams = method.begin_round(ctx, state)
    assert streams == {}
    jax.tree.map(
        np.testing.assert_array_equal, state.student.params, new.student.params
    )
    images = normalize(
        jnp.asarray(
            np.stack([resize(r["image"], (32, 48), "bicubic") for r in records])
        )
    )
    features = jax.lax.conv_general_dilated(
        images,
        state.student.params["backbone"]["conv"]["kernel"],
        (4, 4),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    stats = new.student.batch_stats["backbone"]["bn"]
    mean, var = (f(np.asarray(features), axis=(0, 1, 2)) for f in (np.mean, np.var))
    np.testing.assert_allclose(stats["mean"], blend * mean, atol=1e-5)
    # Within-batch variances are unbiased, n = 192 values each.
    expected = blend * var + (1 - blend)
    np.testing.assert_allclose(stats["var"], expected, rtol=0.01)


def test_adabn_with_one_padded_batch_and_bad_settings():
    method = adabn.Method(
        model=make_model(frozen_bn=True), task=make_task(), size=(32, 48), batch_size=8
    )
    state = make_state(method, OPTIMIZER)
    new, _ = method.begin_round(Context(make_images(3), method.task), state)
    old, stats = (s.student.batch_stats["backbone"]["bn"] for s in (state, new))
    assert not np.allclose(old["var"], stats["var"])
    np.testing.assert_array_equal(old["scale"], stats["scale"])
    with pytest.raises(ConfigError, match="blend"):
        adabn.Method(model=make_model(), task=make_task(), blend=1.5)
