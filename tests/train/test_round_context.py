"""What a round is lent besides its label store: several inputs, networks, mixtures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sfda_jax import config
from sfda_jax.data.sized_input import SizedRecord
from sfda_jax.errors import CheckpointError
from sfda_jax.models import simclr
from sfda_jax.pseudo_labels.gaussian_mixtures import Mixture, stack_mixtures
from sfda_jax.train.loop import make_access
from sfda_jax.train.parallel import make_parallel
from sfda_jax.train.round_context import make_round_context, round_dir
from sfda_jax.weights.convert import write_network
from sfda_jax.weights.layout import init_state
from sfda_jax.weights.mixture_files import write_mixtures
from tests.train import round_recipe


@pytest.fixture(scope="module")
def recipe():
    return config.build(config.load_config(round_recipe.__file__))


def make_context(recipe, folder, stage=1, devices=4):
    return make_round_context(
        folder,
        recipe,
        stage=stage,
        round_=0,
        access=make_access(recipe),
        parallel=make_parallel("jit", devices),
    )


def make_mixtures(classes=19):
    rng = np.random.default_rng(0)
    one = Mixture(
        pi=jnp.full(2, 0.5),
        mu=jnp.asarray(rng.normal(size=(2, 3)), jnp.float32),
        var=jnp.ones((2, 3)),
    )
    return stack_mixtures([one, None] + [one] * (classes - 2), 2, 3)


def assert_same(a, b):
    for ours, theirs in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_forward_takes_several_inputs(recipe, tmp_path):
    ctx = make_context(recipe, tmp_path)
    source = ctx.images("source")
    order = np.array([3, 0, 5, 1, 4])

    def pixels(variables, batch):
        labelled = batch["labels"] < variables["classes"]
        return batch["index"], labelled.sum((1, 2)), batch["images"][:, 0, 0]

    found = list(
        ctx.forward(
            pixels,
            {"classes": 19},
            domain="source",
            transform=SizedRecord(size=(12, 24)),
            inputs=("images", "labels", "index"),
            batch_size=4,
            order=order,
        )
    )
    assert [len(ids) for ids, _ in found] == [4, 1]
    index, labelled, corners = (
        np.concatenate(x) for x in zip(*(out for _, out in found), strict=True)
    )
    assert index.tolist() == order.tolist() and corners.shape == (5, 3)
    for position, count in zip(order.tolist(), labelled.tolist(), strict=True):
        record = {**source[position], "index": position}
        made = SizedRecord(size=(12, 24))(record, np.random.default_rng(0))
        assert count == (made["labels"] < 19).sum()


def test_mixtures_are_kept_and_found_by_name(recipe, tmp_path):
    mixtures = make_mixtures()
    ctx = make_context(recipe, tmp_path)
    assert ctx.mixtures() is None
    ctx.keep_mixtures(mixtures)
    assert (round_dir(tmp_path, recipe, 1, 0) / "mixtures.npz").is_file()
    assert_same(make_context(recipe, tmp_path).mixtures(), mixtures)
    later = make_context(recipe, tmp_path, stage=2)
    assert later.mixtures() is None
    assert_same(later.mixtures("stage:cbst/0"), mixtures)
    with pytest.raises(CheckpointError, match="do not exist"):
        later.mixtures("stage:cbst")  # its last round kept none
    write_mixtures(tmp_path / "published", mixtures)
    assert_same(later.mixtures(str(tmp_path / "published")).valid, mixtures.valid)
    write_mixtures(tmp_path / "other.npz", make_mixtures(classes=5))
    with pytest.raises(CheckpointError, match="19 classes"):
        later.mixtures(str(tmp_path / "other.npz"))


def test_another_network_comes_from_its_file(recipe, tmp_path):
    tiny = {"stem_channels": 4, "planes": (2, 2, 2, 2), "blocks": (1, 1, 1, 1)}
    model = simclr.Model(num_classes=3, **tiny)
    network = init_state(model, jax.random.key(1))
    write_network(tmp_path / "simclr.pth", network, model)
    ctx = make_context(recipe, tmp_path)
    assert_same(ctx.network(model, str(tmp_path / "simclr.pth")), network)
    with pytest.raises(CheckpointError, match="missing"):
        ctx.network(model, str(tmp_path / "missing.pth"))
