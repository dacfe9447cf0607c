import dataclasses

import numpy as np
import pytest

from sfda_jax.errors import ConfigError
from sfda_jax.methods import bismap_transferability
from sfda_jax.methods.bismap_base import WEIGHT_MAPS
from sfda_jax.models import simclr
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


def make_method(**given):
    settings = {
        "extractor": "student",
        "input_size": SIZE,
        "batch_size": 2,
        "clusters": 3,
        "boost": "none",
        "map_size": (24, 36),
    }
    return bismap_transferability.Method(
        model=make_model(), task=make_task(), **{**settings, **given}
    )


def sources(count):
    records = make_images(count, seed=1)
    for index, record in enumerate(records):
        record["label"] = np.full(SIZE, index % 5, np.uint8)
    return records


def run(method, **given):
    ctx = Context(make_images(4), method.task, sources=sources(3), **given)
    state = make_state(method, OPTIMIZER)
    same, streams = method.begin_round(ctx, state)
    assert same is state and streams == {}
    return ctx


def maps(ctx):
    return np.stack([ctx.store.read(WEIGHT_MAPS, row["id"]) for row in ctx.sources])


def test_maps_are_of_the_distance_to_the_targets_cells():
    method = make_method(mean="global", clusters=400)  # more centres than cells
    shares = []
    for images in (make_images(4), make_images(4, seed=1)):
        ctx = Context(make_images(4), method.task, sources=images)
        for record in ctx.sources:
            record["label"] = np.zeros(SIZE, np.uint8)
        method.begin_round(ctx, make_state(method, OPTIMIZER))
        shares.append((maps(ctx) == 255).mean())
    assert shares[0] > 0.4 and shares[1] < 0.1  # the first source is the target
    other = run(make_method(mean="global"))
    found = maps(other)
    assert found.shape == (3, 24, 36) and found.dtype == np.uint8
    assert 0.2 < (found > 127).mean() < 0.8  # one half at the mean distance
    assert other.store.meta["mean_distance"] > 0


def test_ema_follows_the_order_of_the_images():
    followed, same = (maps(run(make_method(mean=mean))) for mean in ("ema", "global"))
    frozen = maps(run(make_method(mean="ema", decay=1.0)))
    assert (followed[0] == frozen[0]).all()
    assert (followed[1:] != frozen[1:]).any() and (followed != same).any()


def test_boost_is_of_the_classes():
    spaced = dataclasses.replace(
        make_task().classes, names=("road", "sky", "bicycle", "car", "person")
    )
    task = dataclasses.replace(make_task(), classes=spaced)
    method = dataclasses.replace(make_method(boost="gta5"), task=task)
    plain, boosted = maps(run(make_method())), maps(run(method))
    np.testing.assert_array_equal(boosted[1], plain[1])  # sky: nothing
    assert (boosted[2] == 255).all()  # bicycle: always 1
    assert (boosted[0] >= plain[0]).all() and (boosted[0] > plain[0]).any()
    with pytest.raises(ConfigError, match="boost"):
        run(make_method(boost="gta5"))


def test_a_resumed_round_makes_nothing_again():
    method = make_method()
    assert method.trains_on_source
    ctx = run(method)
    assert ctx.forwards == 3
    method.begin_round(ctx, make_state(method, OPTIMIZER))
    assert ctx.forwards == 3


def test_extractor_of_its_own(monkeypatch):
    tiny = {"stem_channels": 4, "planes": (2, 2, 2, 2), "blocks": (1, 1, 1, 1)}
    monkeypatch.setitem(simclr.PUBLISHED, "r152_sk1", tiny)
    model = simclr.Model(**tiny)
    network = make_network(model)
    ctx = run(
        make_method(extractor="r152_sk1", extractor_from="file", input_size=(64, 128)),
        networks={"file": network},
    )
    assert maps(ctx).shape == (3, 24, 36)
    assert (maps(ctx) != maps(run(make_method()))).any()
    with pytest.raises(ConfigError, match="r101_sk0"):
        make_method(extractor="r50")
