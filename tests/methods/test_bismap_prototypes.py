import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sfda_jax.errors import CheckpointError, ConfigError, TrainingError
from sfda_jax.methods import bismap_prototypes
from sfda_jax.pseudo_labels import density_threshold
from sfda_jax.pseudo_labels.gaussian_mixtures import log_density
from sfda_jax.pseudo_labels.mixture_fit import MixtureSettings
from sfda_jax.pseudo_labels.mixture_rows import CollectSettings, collect_rows
from sfda_jax.pseudo_labels.prototypes import evaluated, pixel_log_densities
from sfda_jax.types import IGNORE
from tests.methods.bismap_batches import OPTIMIZER
from tests.methods.stand_ins import (
    Context,
    make_images,
    make_model,
    make_network,
    make_state,
    make_task,
)

SIZE = (32, 48)
COLLECT = CollectSettings(portions=(1.0,), batch_size=2)


def make_method(**given):
    settings = {
        "source_size": SIZE,
        "target_size": SIZE,
        "collect": COLLECT,
        "mixture": MixtureSettings(components=2, max_iter=5),
        "selector": density_threshold.Selector(absolute=(-1e7,)),
        "batch_size": 2,
    }
    return bismap_prototypes.Method(
        model=make_model(), task=make_task(), **{**settings, **given}
    )


@functools.cache
def start():
    return make_state(make_method(), OPTIMIZER)


@functools.cache
def outputs(images):
    """Features and classes of the student at its stride, image by image."""
    state = start()
    run = jax.jit(lambda x: evaluated(make_model(), state.student.variables, x))
    found = [run(row["image"][None]) for row in make_images(images, seed=1)]
    features = np.concatenate([out.features for out in found])
    return features, np.concatenate([out.logits for out in found]).argmax(-1)


def sources(count):
    """Source records whose labels are what the student sees, but for the left half."""
    _, classes = outputs(count)
    records = make_images(count, seed=1)
    for record, seen in zip(records, classes.astype(np.uint8), strict=True):
        labels = np.kron(seen, np.ones((4, 4), np.uint8))
        labels[:, :24] = IGNORE
        record["label"] = labels
    return records


def run(method, **services):
    ctx = Context(make_images(3), method.task, **services)
    state, streams = method.begin_round(ctx, start())
    assert state is start() and streams == {}
    return ctx


def labels(ctx):
    return np.stack([ctx.store.read("labels", row["id"]) for row in ctx.records])


def collected(ctx, settings=COLLECT, domain="source"):
    return collect_rows(
        ctx,
        model=make_model(),
        network=start().student,
        settings=settings,
        domain=domain,
        size=SIZE,
    )


def test_source_rows_are_the_cells_that_are_right():
    records = sources(5)
    ctx = Context(make_images(3), make_task(), sources=records)
    features, classes = outputs(5)
    right, seen = features[:, :, 6:].reshape(-1, 8), classes[:, :, 6:].reshape(-1)
    for how in ("reservoir", "first"):
        settings = dataclasses.replace(COLLECT, how=how)
        for class_, rows in enumerate(collected(ctx, settings)):
            expected = right[seen == class_]
            assert rows.shape == expected.shape
            order, want = np.lexsort(rows.T), np.lexsort(expected.T)
            np.testing.assert_allclose(rows[order], expected[want], rtol=1e-5)


@pytest.mark.parametrize("how", ["reservoir", "first"])
def test_collection_is_bounded_and_does_without_classes(how):
    ctx = Context(make_images(3), make_task(), sources=sources(5))
    many = [len(rows) for rows in collected(ctx)]
    common = int(np.argmax(many))
    portions = [1.0] * 5
    portions[common] = 0.0
    settings = CollectSettings(
        how=how, portions=tuple(portions), rows=3, pool_rows=7, batch_size=2
    )
    found = [len(rows) for rows in collected(ctx, settings)]
    assert found[common] == 0 < many[common]
    assert found == [min(n, 3) * (c != common) for c, n in enumerate(many)]


def test_reservoir_depends_on_the_images_alone():
    settings = CollectSettings(portions=(1.0,), rows=10, batch_size=2)
    rows = []
    for batch_size in (2, 3):
        ctx = Context(make_images(3), make_task(), sources=sources(5))
        own = dataclasses.replace(settings, batch_size=batch_size)
        rows.append(np.concatenate(collected(ctx, own)))
    np.testing.assert_allclose(*rows, rtol=1e-4, atol=1e-6)


def test_target_rows_are_the_surest():
    ctx = Context(make_images(5, seed=1), make_task())
    all_, half = (
        [
            len(rows)
            for rows in collected(
                ctx, dataclasses.replace(COLLECT, reject=reject), "target"
            )
        ]
        for reject in (0.0, 0.5)
    )
    counts = np.bincount(outputs(5)[1].reshape(-1), minlength=5).tolist()
    assert all_ == counts
    # a histogram finds the threshold: a few near it may be kept beside the half
    for kept, n in zip(half, counts, strict=True):
        assert n - n // 2 <= kept <= n - n // 2 + 2


def test_labels_are_of_the_likeliest_mixture():
    method = make_method()
    ctx = run(method, sources=sources(5))
    assert ctx.kept.valid.any()
    image = jnp.asarray(ctx.records[0]["image"])
    features = evaluated(method.model, start().student.variables, image[None]).features
    scores = pixel_log_densities(ctx.kept, features, SIZE)
    np.testing.assert_array_equal(labels(ctx)[0], scores[0].argmax(-1))
    # the corners of the enlarged features are the features' own
    corner = log_density(ctx.kept, features[0, :1, 0])
    assert labels(ctx)[0, 0, 0] == int(corner[0].argmax())


def test_a_resumed_round_makes_nothing_again():
    method = make_method()
    ctx = run(method, sources=sources(5))
    done, kept = ctx.forwards, ctx.kept
    method.begin_round(ctx, start())
    assert ctx.forwards == done and ctx.kept is kept
    ctx.store.meta = None  # killed while it labelled
    method.begin_round(ctx, start())
    assert ctx.forwards == done + 1 and ctx.kept is kept


def test_mixtures_of_another_stage_label_with_the_network_named():
    method = make_method(prototypes="load", prototypes_from="stage:shipped")
    assert method.reads_labels_of == ("stage:shipped",)
    assert not method.trains_on_source
    shipped = run(make_method(label_target=False), sources=sources(5))
    assert not shipped.store.maps
    given = {"mixtures_of": {"stage:shipped": shipped.kept}}
    own = run(method, **given)
    other = run(method, labeller=make_network(make_model(), seed=4), **given)
    assert own.kept is None and own.forwards == 1
    assert (labels(own) != labels(other)).any()
    assert not make_method(prototypes="load", prototypes_from="a.npz").reads_labels_of


def test_fitted_to_the_target_reads_no_source():
    method = make_method(prototypes="fit_target")
    assert not method.trains_on_source and make_method().trains_on_source
    ctx = run(method)  # its records have no label
    assert ctx.kept.valid.any() and labels(ctx).max() < 5


def test_faults_are_named():
    with pytest.raises(ConfigError, match="prototypes_from"):
        make_method(prototypes="load")
    with pytest.raises(ConfigError, match="prototypes_from"):
        make_method(prototypes_from="stage:shipped")
    with pytest.raises(ConfigError, match="label_target"):
        make_method(prototypes="load", prototypes_from="x", label_target=False)
    with pytest.raises(ConfigError, match="from 0 to 1"):
        CollectSettings(portions=(1.5,))
    with pytest.raises(ConfigError, match="reservoir"):
        CollectSettings(how="last")
    with pytest.raises(ConfigError, match="19 numbers for 5 classes"):
        run(make_method(collect=CollectSettings()), sources=sources(5))
    blind = sources(5)
    for record in blind:
        record["label"] = np.full(SIZE, IGNORE, np.uint8)
    with pytest.raises(TrainingError, match="No class has the 2 rows"):
        run(make_method(), sources=blind)
    kept = run(make_method(label_target=False), sources=sources(5)).kept
    narrow = kept.replace(mu=kept.mu[..., :3], var=kept.var[..., :3])
    with pytest.raises(CheckpointError, match=r"3 dimensions.*8 features"):
        run(
            make_method(prototypes="load", prototypes_from="x"),
            mixtures_of={"x": narrow},
        )
