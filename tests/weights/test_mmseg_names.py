"""Published names of the networks that mmsegmentation's trainers save."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sfda_jax.errors import CheckpointError
from sfda_jax.models import daformer, deeplab_v2_projection, segformer, upernet
from sfda_jax.models.mix_transformer import MixTransformer
from sfda_jax.weights.convert import to_flax, to_torch
from sfda_jax.weights.layout import abstract_state

ENCODER = {
    "embed_dims": (4, 4, 6, 8),
    "depths": (1, 2, 1, 1),
    "num_heads": (1, 2, 2, 2),
}
DAFORMER = daformer.Model(
    3, **ENCODER, embed_channels=2, channels=4, projection_channels=5
)
MODELS = {
    "daformer": DAFORMER,
    "segformer": segformer.Model(3, **ENCODER, channels=4),
    "segformer_official": segformer.Model(3, **ENCODER, channels=4),
    "upernet": upernet.Model(3, **ENCODER, channels=4),
    "mix_transformer": MixTransformer(**ENCODER),
    "deeplab_v2_projection": deeplab_v2_projection.Model(
        3, stem_channels=4, planes=(1, 1, 2, 2), blocks=(1, 1, 2, 1)
    ),
}


def drawn(model, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32),
        abstract_state(model),
    )


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("layout", MODELS)
def test_round_trip_is_lossless(layout):
    model, state = MODELS[layout], drawn(MODELS[layout])
    tree = to_torch(state, model, layout)[""]
    assert len(tree) == len(jax.tree.leaves((state.params, state.batch_stats)))
    assert_equal(to_flax(tree, model, layout=layout), state)
    again = to_torch(to_flax(tree, model), model, layout)[""]
    assert_equal(again, tree)


def test_official_names_count_from_one():
    tree = to_torch(drawn(MODELS["segformer"]), MODELS["segformer"])[""]
    assert tree["decode_head.linear_c.0.proj.weight"].shape == (4, 4)
    official = to_torch(
        drawn(MODELS["segformer"]), MODELS["segformer"], "segformer_official"
    )[""]
    np.testing.assert_array_equal(
        official["decode_head.linear_c1.proj.weight"],
        tree["decode_head.linear_c.0.proj.weight"],
    )


def test_imagenet_file_fills_the_backbone_only():
    encoder = drawn(MODELS["mix_transformer"])
    tree = to_torch(encoder, MODELS["mix_transformer"])[""]
    tree |= {"head.weight": np.ones((1000, 8), np.float32), "head.bias": np.ones(1000)}
    initial = drawn(DAFORMER, 1)
    state = to_flax(tree, DAFORMER, backbone_only=True, initial=initial)
    assert_equal(state.params["backbone"], encoder.params)
    assert_equal(state.params["head"], initial.params["head"])
    with pytest.raises(CheckpointError, match="decode_head"):
        to_flax(tree, DAFORMER, initial=initial)


def test_training_file_holds_student_and_teacher():
    student, teacher = drawn(DAFORMER, 1), drawn(DAFORMER, 2)
    networks = {"model.": student, "ema_model.": teacher}
    tree = {
        "meta": {"iter": 4},
        "optimizer": {"state": {}},
        "state_dict": {
            prefix + name: array
            for prefix, state in networks.items()
            for name, array in to_torch(state, DAFORMER)[""].items()
        },
    }
    assert_equal(to_flax(tree, DAFORMER, entry="student"), student)
    assert_equal(to_flax(tree, DAFORMER, entry="teacher"), teacher)
    with pytest.raises(CheckpointError, match="several networks"):
        to_flax(tree, DAFORMER)


def test_projection_is_ignored_by_a_network_without_one():
    state = drawn(DAFORMER)
    plain = DAFORMER.clone(projection_channels=0)
    found = to_flax(to_torch(state, DAFORMER)[""], plain)
    assert set(found.params) == {"backbone", "head"}
    assert_equal(found.params["head"], state.params["head"])
