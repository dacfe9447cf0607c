import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sfda_jax.errors import ConfigError
from sfda_jax.losses.distillation import distillation_loss
from sfda_jax.methods import bismap_distill
from sfda_jax.models.forward import enlarged, forward
from sfda_jax.pseudo_labels.inference import Inference
from sfda_jax.train.step import make_train_step
from sfda_jax.types import IGNORE
from tests.methods.bismap_batches import CROP, OPTIMIZER, SIZE, first_terms, make_batch
from tests.methods.stand_ins import (
    Context,
    assert_shard_close,
    make_images,
    make_model,
    make_network,
    make_state,
    make_task,
    run_both_ways,
)

KEY = jax.random.key(0)
SMALL = {
    "source_crop": CROP,
    "target_crop": CROP,
    "weights_of": "",
    "inference": Inference(
        size=(32, 48),
        view_sizes=((24, 36), (32, 48)),
        flip=True,
        enlarge="mean_logits",
        batch_size=2,
    ),
}


def make_method(**given):
    return bismap_distill.Method(
        model=make_model(), task=make_task(), **{**SMALL, **given}
    )


@functools.cache
def start():
    """A student and a teacher of its own."""
    state = make_state(make_method(), OPTIMIZER)
    return state.replace(teacher=make_network(make_model(), seed=7))


@functools.cache
def compiled_step():
    return jax.jit(make_train_step(make_method(), OPTIMIZER))


def run(batches):
    state, rows = start(), []
    for batch in batches:
        state, metrics = compiled_step()(state, batch, KEY)
        rows.append(jax.device_get(metrics))
    return state, rows


def terms_of(batch, **given):
    return first_terms(make_method(**given), start(), batch)


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@jax.jit
def expected_distance(state, images):
    """Distance of the student, first on the source, from a teacher that is at rest."""
    model = make_model()
    _, stats = forward(
        model, state.student, images["source"], statistics="batch", key=KEY
    )
    logits = []
    for network, statistics in (
        (state.student.replace(batch_stats=stats), "batch"),
        (state.teacher, "running"),
    ):
        output, _ = forward(
            model, network, images["target"], statistics=statistics, key=None
        )
        logits.append(enlarged(model, output.logits, SIZE))
    return {form: distillation_loss(*logits, form=form) for form in FORMS}


FORMS = bismap_distill.Method.choices["form"]


def test_teacher_stays_and_is_followed():
    batch = make_batch()
    state, rows = run([batch] * 4)
    assert_same(state.teacher, start().teacher)
    assert rows[-1]["loss"] < rows[0]["loss"]
    terms = sum(rows[0][f"loss_{t}"] for t in ("source", "labels", "distillation"))
    np.testing.assert_allclose(rows[0]["loss"], terms, rtol=1e-6)
    assert "loss_consistency" not in rows[0]


def test_forms_of_distillation():
    batch = make_batch()
    images = {domain: part["images"] for domain, part in batch.items()}
    expected = expected_distance(start(), images)
    for form in FORMS:
        found = terms_of(batch, form=form)["loss_distillation"]
        np.testing.assert_allclose(found, expected[form], rtol=2e-5)
    assert expected["prob_as_log"] < 0 < expected["kl"]
    with pytest.raises(ConfigError, match="prob_as_log"):
        make_method(form="log")


def test_source_free_reads_no_source():
    batch = {"target": make_batch()["target"]}
    assert set(terms_of(batch, use_source=False)) == {
        *("loss_labels", "loss_distillation", "coverage"),
    }
    assert not make_method(use_source=False).trains_on_source
    weighted = make_method(weights_of="stage:weights")
    assert weighted.reads_labels_of == ("stage:weights",)


def test_pmap_equals_one_device():
    batches = [make_batch(seed=seed) for seed in range(3)]
    batches[1]["target"]["labels"][0] = IGNORE
    ran = run_both_ways(
        make_method(), OPTIMIZER, batches, state=start(), step=compiled_step()
    )
    for metrics in ran.metrics:
        assert_shard_close(*metrics, device=2, rtol=2e-5)
    assert_shard_close(ran.state, ran.shards, rtol=1e-4, atol=1e-6)


def test_round_labels_densely_with_the_network_that_is_named():
    method, records = make_method(), make_images(5)
    state = make_state(method, OPTIMIZER)
    other = make_network(method.model, seed=5)
    maps = []
    for labeller in (other, None):
        ctx = Context(records, method.task, labeller=labeller)
        begun, streams = method.begin_round(ctx, state)
        assert_same(begun.teacher, state.student if labeller is None else other)
        assert_same(begun.student, state.student)
        maps.append(np.stack([ctx.store.read("labels", r["id"]) for r in records]))
    assert maps[0].shape == (5, 32, 48) and maps[0].max() < 5
    assert (maps[0] != maps[1]).any()
    assert set(streams) == {"source", "target"}
    arrays = streams["target"].transform(records[0], np.random.default_rng(0))
    assert set(arrays) == {"images", "labels", "index"}
    assert arrays["labels"].shape == SIZE and arrays["labels"].max() < 5


def test_a_resumed_round_labels_no_more():
    method = make_method()
    state = make_state(method, OPTIMIZER)
    other = make_network(method.model, seed=5)
    ctx = Context(make_images(3), method.task, labeller=other)
    method.begin_round(ctx, state)
    forwards = ctx.forwards
    begun, _ = method.begin_round(ctx, state)
    assert ctx.forwards == forwards
    assert_same(begun.teacher, other)


def test_teacher_is_a_copy():
    """A donated state must not hold one buffer twice."""
    state = make_state(make_method(), OPTIMIZER)
    for held in (
        state,
        make_method().begin_round(Context(make_images(2), make_task()), state)[0],
    ):
        pointers = [
            leaf.unsafe_buffer_pointer()
            for leaf in jax.tree.leaves((held.student, held.teacher))
            if isinstance(leaf, jnp.ndarray)
        ]
        assert len(set(pointers)) == len(pointers)
