import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sfda_jax.data.access import Joined
from sfda_jax.data.statistics import count_class_maps
from sfda_jax.data.streams import open_stream
from sfda_jax.errors import ConfigError, DataError
from sfda_jax.methods import cbst
from sfda_jax.pseudo_labels import class_balanced, constant, instance_adaptive
from sfda_jax.pseudo_labels.inference import Inference
from sfda_jax.train.optim import OptimizerSettings, make_optimizer
from sfda_jax.train.step import make_train_step
from sfda_jax.types import IGNORE
from tests.methods.stand_ins import (
    Context,
    assert_shard_close,
    make_model,
    make_state,
    make_task,
    run_both_ways,
)

SIZE, CLASSES = (32, 48), 5
COLOURS = np.random.default_rng(9).integers(40, 216, (CLASSES, 3))
OPTIMIZER, PRETRAINING = (
    make_optimizer(
        OptimizerSettings(name="adam", learning_rate=rate, schedule="constant")
    )
    for rate in (0.001, 0.01)
)
CBST = {
    "crop_size": (16,),
    "long_sides": (0, 0),
    "inference": Inference(flip=True, batch_size=4),
    "source_portion": 0.5,
}
CRST = {
    "crop": "crst",
    "crop_size": (16, 24),
    "loss_size": "crop",
    "mine_number": 0,
    "mine_source": False,
    "inference": Inference(resample="opencv", flip=True, batch_size=4),
}


def make_method(**settings):
    model = settings.pop("model", make_model(frozen_bn=True))
    settings = {**CBST, "batch_size": 4, **settings}
    return cbst.Method(model=model, task=make_task(CLASSES), **settings)


def make_domain(count, *, shift=0, labelled=False, seed=0):
    """Images of stripes in the colours of their classes, the last class rare."""
    rng = np.random.default_rng(seed)
    records = []
    for i in range(count):
        label = rng.integers(0, CLASSES - 1, (4, 6)).repeat(8, 0).repeat(8, 1)
        label = label.astype(np.uint8)
        if i % 4 == 0:
            label[8:16, 8:16] = CLASSES - 1
        noise = rng.normal(0, 12, (*SIZE, 3))
        image = np.clip(COLOURS[label] + noise + shift, 0, 255).astype(np.uint8)
        record = {"image": image, "id": f"{'st'[not labelled]}_{i}"}
        records.append({**record, "label": label} if labelled else record)
    return records


@dataclasses.dataclass
class Domains(Context):
    """A context of two domains; a closed source is refused."""

    source: list | None = None

    def images(self, domain):
        if domain == "target":
            return self.records
        if self.source is None:
            raise DataError("The source is closed.")
        return self.source

    def class_maps(self, domain, size):
        return count_class_maps(self.images(domain), CLASSES, size)


def make_context(method, *, source=8, target=8, **settings):
    return Domains(
        make_domain(target, shift=10, seed=1),
        method.task,
        source=make_domain(source, labelled=True) if source else None,
        **settings,
    )


def run_round(method, ctx, state, optimizer=OPTIMIZER):
    """The round's state, stream and metrics."""
    state, streams = method.begin_round(ctx, state)
    spec = streams["mixed"]
    images = ctx.images("target")
    if spec.domain == "both":
        images = Joined(ctx.images("source"), images)
    step = jax.jit(make_train_step(method, optimizer))
    metrics = {}
    with open_stream(
        images, spec, seed=(0, ctx.round), num_steps=ctx.num_steps
    ) as stream:
        for batch in stream:
            state, metrics = step(state, {"mixed": batch}, jax.random.key(0))
    return state, spec, jax.device_get(metrics)


def make_batch(size=4, *, method, seed=0, ignored=False, soft=False):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, (size, 16, 24), dtype=np.uint8)
    labels[:, :5] = IGNORE
    labels[0, :9] = IGNORE
    if ignored:
        labels[:] = IGNORE
    batch = {
        "images": rng.integers(0, 256, (size, 16, 24, 3), dtype=np.uint8),
        "labels": labels,
        "valid": np.ones((size, 16, 24), bool),
        "is_target": np.arange(size) % 2 == 0,
        "index": np.arange(size, dtype=np.int32),
    }
    if soft:
        weights = rng.dirichlet(np.ones(CLASSES), labels.shape).astype(np.float32)
        batch["soft_labels"] = weights * (labels != IGNORE)[..., None]
    return {"mixed": batch}


@pytest.fixture(scope="module")
def student():
    """A network that knows the source's colours."""
    supervised = {"source_portion": 1.0, "selector": constant.Selector(threshold=0.0)}
    method = make_method(**CRST | supervised)
    ctx = make_context(method, target=1, num_steps=80)
    return run_round(method, ctx, make_state(method, OPTIMIZER), PRETRAINING)[0].student


def start(method, student):
    return make_state(method, OPTIMIZER).replace(student=student)


def test_two_rounds_keep_the_portion_of_every_class(student):
    method = make_method(mine_fraction=0.05)
    state = start(method, student)
    truths = np.stack([r["label"] for r in make_domain(8, labelled=True, seed=1)])
    kept_shares = []
    for index, portion in enumerate((0.3, 0.5)):
        method = dataclasses.replace(
            method, selector=class_balanced.Selector(portion=portion)
        )
        ctx = make_context(method, round=index, num_steps=3)
        state, spec, metrics = run_round(method, ctx, state)
        meta = ctx.store.meta
        kept, seen = np.sum(meta["counts"], axis=0), np.array(meta["pixels"])
        common = seen > 200
        assert common.sum() >= 3
        shares = kept[common] / seen[common]
        np.testing.assert_allclose(shares, portion, atol=0.1)
        maps = np.stack([ctx.store.read("labels", f"t_{i}") for i in range(8)])
        assert (maps == truths)[maps != IGNORE].mean() > 0.5
        kept_shares.append((maps != IGNORE).mean())
        assert spec.domain == "both"
        assert (spec.order < 8).any()
        assert len(np.unique(spec.order[spec.order < 8])) == 4
        assert np.isfinite(metrics["loss"])
        assert 0 < metrics["coverage"] < 1
    assert kept_shares[0] < kept_shares[1]


def test_labels_are_made_once_and_rare_classes_looked_for(student):
    method = make_method(mine_fraction=0.15, mine_number=2)
    ctx = make_context(method)
    state = start(method, student)
    _, streams = method.begin_round(ctx, state)
    forwards, sizes = ctx.forwards, np.array(ctx.store.meta["sizes"])
    crop = streams["mixed"].transform
    assert crop.priority == tuple(np.flatnonzero(sizes / sizes.sum() < 0.15))
    assert crop.others == tuple(np.argsort(sizes, kind="stable")[:2])
    method.begin_round(ctx, state)
    assert ctx.forwards == forwards
    arrays = crop({**ctx.records[0], "index": 8}, np.random.default_rng(0))
    assert arrays["images"].shape == (16, 16, 3)
    assert arrays["labels"].shape == (2, 2)
    crst = make_method(**CRST, mine_fraction=0.15, selector=method.selector)
    _, streams = crst.begin_round(make_context(crst), state)
    assert set(streams["mixed"].transform.priority) == set(crop.priority)
    assert streams["mixed"].transform.others == ()


def test_source_free_never_opens_the_source():
    method = make_method(source_portion=0.0, prior="predictions", prior_size=(8, 12))
    assert not method.trains_on_source
    assert make_method().trains_on_source
    assert make_method(source_portion=0.0, prior="source").trains_on_source
    ctx = make_context(method, source=0, num_steps=2)
    _, spec, metrics = run_round(method, ctx, make_state(method, OPTIMIZER))
    assert spec.domain == "target"
    np.testing.assert_array_equal(np.sort(spec.order), np.arange(8))
    assert np.isfinite(metrics["loss"])
    with pytest.raises(DataError, match="closed"):
        make_method().begin_round(ctx, make_state(method, OPTIMIZER))


@pytest.mark.parametrize(
    ("empty", "loss", "moves"), [("skip_step", 0, False), ("zero", 0, True)]
)
def test_nothing_labelled(empty, loss, moves):
    method = make_method(**CRST, empty_batch=empty, regularizer="kld")
    method = dataclasses.replace(method, regularizer_weight=0.1)
    step = jax.jit(make_train_step(method, OPTIMIZER))
    key = jax.random.key(0)
    state, _ = step(make_state(method, OPTIMIZER), make_batch(method=method), key)
    new, metrics = step(state, make_batch(method=method, ignored=True), key)
    assert metrics["loss"] == loss
    assert metrics["grad_norm"] == 0
    assert metrics["coverage"] == 0
    kept = [
        bool((a == b).all())
        for a, b in zip(
            *(jax.tree.leaves(s.student.params) for s in (state, new)), strict=True
        )
    ]
    assert all(kept) != moves
    assert new.step == 2


def test_nan_as_published_where_asked_for():
    method = make_method(**CRST, empty_batch="nan")
    step = jax.jit(make_train_step(method, OPTIMIZER))
    batch = make_batch(method=method, ignored=True)
    new, metrics = step(make_state(method, OPTIMIZER), batch, jax.random.key(0))
    assert np.isnan(metrics["loss"])
    assert np.isnan(new.student.params["head"]["bias"]).all()


def test_soft_labels_reach_the_loss(student):
    selector = class_balanced.Selector(
        portion=0.4, soft_alpha=0.25, extra_zero=False, sizes="pixels"
    )
    method = make_method(**CRST, selector=selector)
    state = start(method, student)
    ctx = make_context(method)
    _, streams = method.begin_round(ctx, state)
    spec = streams["mixed"]
    both = Joined(ctx.images("source"), ctx.images("target"))
    with open_stream(both, spec, seed=(0,), num_steps=1) as stream:
        batch = next(stream)
    sums = batch["soft_labels"].sum(-1)
    np.testing.assert_allclose(sums, batch["labels"] != IGNORE, atol=2e-3)
    _, targets = jax.jit(method.annotate)(state, {"mixed": batch}, jax.random.key(0))
    assert targets.extras["soft"].shape == (4, 16, 24, CLASSES)
    value = jax.jit(method.loss)(
        state.student.params, state, {"mixed": batch}, targets, jax.random.key(0)
    )[0]
    hard = dataclasses.replace(targets, extras={**targets.extras, "soft": None})
    other = jax.jit(method.loss)(
        state.student.params, state, {"mixed": batch}, hard, jax.random.key(0)
    )[0]
    assert np.isfinite(value)
    assert value != other


def test_regulariser_weights_follow_the_domain():
    batch = make_batch(method=None)
    settings = {**CRST, "regularizer": "kld", "regularizer_weight": 0.1}

    def penalty(**more):
        method = make_method(**settings, **more)
        state = make_state(method, OPTIMIZER)
        state, targets = jax.jit(method.annotate)(state, batch, jax.random.key(0))
        _, aux = jax.jit(method.loss)(
            state.student.params, state, batch, targets, jax.random.key(0)
        )
        return float(aux.metrics["loss_regularizer"]), targets.extras["regularizer"]

    squared, weights = penalty()
    np.testing.assert_allclose(weights, [0.1, 0.0, 0.1, 0.0])
    linear, _ = penalty(weight_semantics="linear")
    np.testing.assert_allclose(squared, 0.1 * linear, rtol=1e-6)
    _, weights = penalty(source_regularizer_weight=0.3)
    np.testing.assert_allclose(weights, [0.1, 0.3, 0.1, 0.3])


def test_padding_is_black_after_normalisation_and_cells_are_picked():
    method = make_method(**{**CRST, "loss_size": "stride"})
    batch = make_batch(method=method, soft=True)
    batch["mixed"]["valid"][:, :, 20:] = False
    state = make_state(method, OPTIMIZER)
    images = np.asarray(method._images(jax.tree.map(jnp.asarray, batch["mixed"])))
    assert not images[:, :, 20:].any()
    assert images[:, :, :20].all(-1).mean() > 0.9
    _, targets = jax.jit(method.annotate)(state, batch, jax.random.key(0))
    labels = batch["mixed"]["labels"][:, 4::8, 4::8]
    np.testing.assert_array_equal(targets.labels, labels)
    assert targets.extras["soft"].shape == (*labels.shape, CLASSES)
    grid = make_method()
    small = {"mixed": {**batch["mixed"], "labels": labels}}
    _, targets = jax.jit(grid.annotate)(state, small, jax.random.key(0))
    np.testing.assert_array_equal(targets.labels, labels)


def test_prior_of_the_source_rules_classes_out(student):
    method = make_method(prior="source", prior_kernel=4)
    state = start(method, student)
    ctx = make_context(method)
    for record in ctx.source:  # nothing but class 0 in the upper half
        record["label"] = np.where(np.arange(32)[:, None] < 16, 0, record["label"])
    method.begin_round(ctx, state)
    maps = np.stack([ctx.store.read("labels", f"t_{i}") for i in range(8)])
    upper = maps[:, :12]
    assert set(np.unique(upper)) == {0, IGNORE}
    assert len(np.unique(maps[:, 20:])) > 3


def test_prior_of_predictions_is_that_of_the_first_round(student):
    method = make_method(prior="predictions", prior_size=(8, 12), prior_kernel=4)
    state = start(method, student)
    assert not np.any(state.method)
    first = make_context(method)
    begun, _ = method.begin_round(first, state)
    prior = np.asarray(begun.method)
    assert prior.shape == (CLASSES, 8, 12)
    assert prior.any()
    other = begun.replace(student=make_state(method, OPTIMIZER, seed=3).student)
    second = make_context(method, round=1)
    again, _ = method.begin_round(second, other)
    np.testing.assert_array_equal(again.method, prior)
    assert second.forwards == first.forwards - 1


def test_prior_from_a_file(tmp_path, student):
    prior = np.ones((CLASSES, 16, 24), np.float32)
    prior[1:] = 0
    np.save(tmp_path / "prior.npy", prior)
    method = make_method(prior=str(tmp_path / "prior.npy"))
    ctx = make_context(method)
    method.begin_round(ctx, start(method, student))
    counts = np.sum(ctx.store.meta["counts"], axis=0)
    assert counts[0]
    assert not counts[1:].any()


@pytest.mark.parametrize(
    "selector",
    [instance_adaptive.Selector(), constant.Selector(threshold=0.5)],
    ids=["instance_adaptive", "constant"],
)
def test_any_selector(selector, student):
    method = make_method(selector=selector, mine_fraction=0.2)
    ctx = make_context(method)
    _, streams = method.begin_round(ctx, start(method, student))
    counts = np.sum(ctx.store.meta["counts"], axis=0)
    rare = np.flatnonzero(counts / counts.sum() < 0.2)
    assert set(streams["mixed"].transform.priority) == set(rare)


@pytest.mark.parametrize("soft", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_pmap_equals_one_device(soft):
    method = make_method(**CRST, regularizer="l2", regularizer_weight=0.5)
    batches = [make_batch(method=method, seed=t, soft=soft) for t in range(2)]
    ran = run_both_ways(method, OPTIMIZER, batches)
    for metrics in ran.metrics:
        assert_shard_close(*metrics, device=2, rtol=2e-5)
    assert_shard_close(ran.state.student, ran.shards.student, rtol=2e-4, atol=2e-6)


def test_settings_are_checked():
    with pytest.raises(ConfigError, match="regularizer"):
        make_method(regularizer="mrkld")
    with pytest.raises(ConfigError, match="one side"):
        make_method(crop_size=(16, 24))
    with pytest.raises(ConfigError, match="height"):
        make_method(**{**CRST, "crop_size": (16,)})
