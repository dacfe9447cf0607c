import pytest

from sfda_jax.errors import ConfigError
from sfda_jax.methods.cbst_rounds import cbst_rounds, crst_rounds, round_steps

GTA5 = {"num_source": 24966, "num_target": 505}


def _settings(rounds, name):
    return [entry["settings"][name] for entry in rounds]


def _portions(rounds):
    return [entry["portion"] for entry in _settings(rounds, "selector")]


def test_published_crst_rounds():
    rounds = crst_rounds(num_source=19984, num_target=505)
    assert _portions(rounds) == [0.2, 0.25, 0.3]
    assert _settings(rounds, "source_portion") == [0.03, 0.0325, 0.035]
    assert _settings(rounds, "source_seed") == [4, 5, 6]
    assert [entry["num_steps"] for entry in rounds] == [2 * 552, 2 * 577, 2 * 602]
    assert "optimizer" not in rounds[0]


def test_crst_portions_are_clamped_and_one_seed_accumulates():
    rounds = crst_rounds(4, portion=0.42, source_policy="cumulative", **GTA5)
    assert _portions(rounds) == [0.42, 0.47, 0.5, 0.5]
    assert _settings(rounds, "source_seed") == [3, 3, 3, 3]


def test_cbst_portion_may_overshoot():
    rounds = cbst_rounds(10, portion=0.15, **GTA5)
    assert _portions(rounds)[6:] == [0.45, 0.5, 0.55, 0.55]
    assert rounds[0]["num_steps"] == 2 * 626
    rates = [entry["optimizer"]["learning_rate"] for entry in rounds]
    assert rates[:3] == [1e-4, 7.07106781187e-05, 5e-05]


def test_random_source_images():
    rounds = cbst_rounds(3, source_policy="random", source_seed=7, **GTA5)
    assert _settings(rounds, "source_seed") == [0, 1, 2]


@pytest.mark.parametrize("make", [cbst_rounds, crst_rounds])
def test_without_source(make):
    rounds = make(2, num_source=0, num_target=505)
    assert _settings(rounds, "source_portion") == [0.0, 0.0]
    assert [entry["num_steps"] for entry in rounds] == [504, 504]


def test_fewer_images_than_a_batch():
    assert round_steps(0, 3, batch_size=4, epochs=2) == 2


@pytest.mark.parametrize(
    ("make", "policy"), [(cbst_rounds, "replace"), (crst_rounds, "random")]
)
def test_unknown_policy(make, policy):
    with pytest.raises(ConfigError, match="source_policy"):
        make(1, source_policy=policy, **GTA5)
