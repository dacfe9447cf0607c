"""Online teachers enlarge logits as the network's publication does; SegFormer's recipe.

What the teacher sees, what the student learns and what becomes a candidate have to be
at the same places.
"""

import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sfda_jax import config
from sfda_jax.losses.cross_entropy import mean_cross_entropy
from sfda_jax.methods import dtst, snd
from sfda_jax.models.forward import forward
from sfda_jax.ops.resize import resize_bilinear
from sfda_jax.ops.warp import full_to_weak
from sfda_jax.pseudo_labels.candidates import make_predict
from sfda_jax.train.optim import OptimizerSettings, make_optimizer
from sfda_jax.train.states import start_state
from sfda_jax.train.step import make_train_step
from sfda_jax.weights.layout import abstract_state
from tests.methods.stand_ins import (
    ONLINE,
    Context,
    Model,
    make_images,
    make_online_batch,
    make_state,
    make_task,
)
from tests.smoke.recipes import ROOT

OPTIMIZER = make_optimizer(OptimizerSettings())


class Centred(Model):
    """Its logits are enlarged from pixel centres."""

    align_corners: ClassVar[bool] = False


def make_method(kind, model, **settings):
    own = {"meta": False} if kind is snd else {"negative_weight": 0.0}
    settings = {**ONLINE, "dynamic": False, **own, **settings}
    return kind.Method(model=model, task=make_task(), **settings)


def logits_of(model, network, images):
    return forward(model, network, images, statistics="running")[0].logits


MODELS = {True: Model(frozen_bn=True), False: Centred(frozen_bn=True)}


@pytest.mark.parametrize("corners", MODELS)
@pytest.mark.parametrize("kind", [dtst, snd])
def test_teacher_and_student(kind, corners):
    model = MODELS[corners]
    method = make_method(kind, model, threshold_floor=0.0)
    state = make_state(method, OPTIMIZER)
    batch = jax.tree.map(jnp.asarray, make_online_batch(np.random.default_rng(0)))
    full = resize_bilinear(
        logits_of(model, state.teacher, batch["full_images"]),
        (32, 48),
        align_corners=corners,
    )
    expected = full_to_weak(
        full,
        rescale_size=batch["rescale_size"],
        crop_origin=batch["crop_origin"],
        flip=batch["flip"],
        crop_size=(16, 24),
    )
    view = method.teach(state, batch, jax.random.key(0))
    np.testing.assert_allclose(view.probs, jax.nn.softmax(expected), atol=1e-6)

    state, targets = method.annotate(state, {"target": batch}, jax.random.key(0))
    loss, _ = method.loss(
        state.student.params, state, {"target": batch}, targets, jax.random.key(0)
    )
    logits = logits_of(model, state.student, batch["images"])
    crop = resize_bilinear(logits, (16, 24), align_corners=corners)
    other = resize_bilinear(logits, (16, 24), align_corners=not corners)
    of = functools.partial(mean_cross_entropy, denominator="all")
    np.testing.assert_allclose(loss, of(crop, targets.labels), rtol=1e-5)
    assert abs(loss - of(other, targets.labels)) > 1e-4


@pytest.mark.parametrize("corners", MODELS)
def test_candidates(corners):
    model = MODELS[corners]
    network = make_state(make_method(dtst, model), OPTIMIZER).student
    images = jnp.stack([record["image"] for record in make_images(2)])
    predict = make_predict(model, (64, 96), stride=2, statistics="running")
    labels, confidence = predict(network.variables, images)
    logits = resize_bilinear(
        logits_of(model, network, images), (64, 96), align_corners=corners
    )[:, ::2, ::2]
    np.testing.assert_array_equal(labels, logits.argmax(-1))
    np.testing.assert_allclose(confidence, jax.nn.softmax(logits).max(-1), atol=1e-6)


def test_share_of_the_cells_that_are_cut_out():
    settings = {"cutout_probability": 1.0, "cutout_cell": 8, "mix_classes": ()}
    settings |= {"sampling": "uniform"}
    records = make_images(3)
    for ratio, colours in ((1.0, 1), (0.0, 100)):
        method = make_method(snd, MODELS[True], cutout_ratio=ratio, **settings)
        ctx = Context(records, method.task)
        _, streams = method.begin_round(ctx, make_state(method, OPTIMIZER))
        transform = streams["target"].transform
        image = transform(records[0], np.random.default_rng(0))["images"]
        found = np.unique(image.reshape(-1, 3), axis=0)
        assert len(found) == 1 if colours == 1 else len(found) > colours


def test_segformers_recipe_is_traced_at_its_sizes():
    overrides = {"model.depths": "(1, 1, 1, 1)", "pipeline": "('adapt',)"}
    path = str(ROOT / "configs" / "g2c_segformer.py")
    recipe = config.build(config.load_config(path, overrides))
    head = abstract_state(recipe.model).params["head"]
    assert head["fuse"]["mix"]["conv"]["kernel"].shape == (1, 1, 3072, 128)
    assert head["classifier"]["kernel"].shape == (1, 1, 128, 19)
    method, settings = recipe.stages[0].at_round(0)
    optimizer = make_optimizer(settings)
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(
        functools.partial(start_state, method, optimizer),
        abstract_state(recipe.model),
        key,
    )
    crop, full = (2, *method.crop_size), (2, *method.full_size)
    batch = {
        "images": jax.ShapeDtypeStruct((*crop, 3), jnp.uint8),
        "full_images": jax.ShapeDtypeStruct((*full, 3), jnp.uint8),
        "rescale_size": jax.ShapeDtypeStruct((2, 2), jnp.int32),
        "crop_origin": jax.ShapeDtypeStruct((2, 2), jnp.int32),
        "flip": jax.ShapeDtypeStruct((2,), jnp.bool_),
        "mix_labels": jax.ShapeDtypeStruct(crop, jnp.uint8),
        "index": jax.ShapeDtypeStruct((2,), jnp.int32),
    }
    step = make_train_step(method, optimizer)
    after, _ = jax.eval_shape(step, state, {"target": batch}, key)
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), (after, state))
    assert shapes[0] == shapes[1]
