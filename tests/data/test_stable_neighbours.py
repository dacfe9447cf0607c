import dataclasses
import pickle

import numpy as np
import pytest

from sfda_jax.data import image_ops
from sfda_jax.data.stable_neighbours import (
    NeighbourDraws,
    StableNeighbours,
    low_frequency_style,
    nearest,
    overlap_probabilities,
    stable_styles,
)
from sfda_jax.errors import ConfigError, DataError
from sfda_jax.types import IGNORE

ROAD, POLE, CAR, BUS = range(4)
SIZE = (24, 48)


class Maps:
    """Labels of stable images; masks with one pole or car of 6 by 5 entries."""

    def __init__(self, kind):
        self.kind = kind

    def __call__(self, name):
        labels = np.full((20, 40), IGNORE, np.uint8)
        if self.kind == "labels":
            labels[10:] = ROAD
        else:
            labels[4:10, 4:9] = {"a": POLE, "b": CAR, "c": BUS}[name]
        return labels


def _images():
    """Flat images of grey 10, 20, 30; pasted pixels are told by their grey."""
    return [
        {"image": np.full((40, 80, 3), 10 * (i + 1), np.uint8), "id": "abc"[i]}
        for i in range(3)
    ]


def _bank(**settings):
    defaults = {
        "size": SIZE,
        "images": _images(),
        "stable": [(0, "a"), (2, "c")],
        "holds": np.array([[1, 1, 0, 0], [1, 0, 1, 0]], bool),
        "labels": Maps("labels"),
        "candidates": Maps("masks"),
        "class_files": {POLE: [(0, "a")], CAR: [(1, "b")], BUS: []},
        "mix_classes": (POLE, CAR, BUS),
        "companions": {},
    }
    return StableNeighbours(**{**defaults, **settings})


def _present(*rows):
    present = np.zeros((len(rows), 4), bool)
    for row, classes in zip(present, rows, strict=True):
        row[list(classes)] = True
    return present


def _rng(seed=0):
    return np.random.default_rng(seed)


def test_overlap_is_cubed():
    holds = np.array([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0] * 4], bool)
    probs = overlap_probabilities(_present((0, 1), (2,), ()), holds)
    np.testing.assert_allclose(probs[0], np.array([8, 1, 0, 0]) / 9)
    np.testing.assert_allclose(probs[1], [1, 0, 0, 0])
    # Nothing shared: uniform, but never an image without a class.
    np.testing.assert_allclose(probs[2], [1 / 3, 1 / 3, 1 / 3, 0])


def test_overlap_is_drawn_with_its_probabilities():
    present = _present(*[(ROAD, POLE)] * 2000)
    drawn = _bank().draw(present, None, _rng()).neighbours
    assert abs((drawn == 0).mean() - 8 / 9) < 0.03


def test_nearest_compares_styles_among_the_best_overlap():
    holds = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0], [0] * 4], bool)
    styles = np.eye(4, dtype=np.float32)
    query = np.stack([styles[1], styles[2], styles[2], styles[3]])
    found = nearest(_present((0, 1), (0, 1), (3,), (3,)), holds, query, styles)
    # The style of the third, but it shares less; nothing shared, its style decides;
    # an image without a class is never chosen, whatever its style.
    assert found.tolist() == [1, 0, 2, 0]


def test_style_is_the_released_one(request):
    path = request.config.getoption("golden_dir") / "stable_st" / "nfd.npz"
    if not path.is_file():
        pytest.skip("no recorded cases beside this clone")
    data = np.load(path)
    for name in data["names"]:
        images = np.moveaxis(data[f"{name}/images"], 1, -1)
        styles = [low_frequency_style(x, float(data["keep_ratio"])) for x in images]
        np.testing.assert_allclose(styles, data[f"{name}/style_vec"], atol=1e-5, rtol=0)


def test_styles_of_stable_images_find_the_same_image():
    rng = _rng()
    images = [
        {"image": rng.integers(0, 256, (40, 80, 3), dtype=np.uint8)} for _ in range(3)
    ]
    styles = stable_styles(images, [2, 0], SIZE)
    assert styles.shape == (2, 3 * 3)
    np.testing.assert_allclose(np.linalg.norm(styles, axis=1), 1, atol=1e-6)
    view = image_ops.resize(images[0]["image"], SIZE, "bilinear")
    query = low_frequency_style(image_ops.normalise(view))[None]
    bank = _bank(images=images, neighbour="nearest", styles=styles)
    assert bank.draw(_present((ROAD,)), query, _rng()).neighbours.tolist() == [1]
    bright = stable_styles(images, [2, 0], SIZE, gamma=0.5)
    assert np.abs(bright - styles).max() > 1e-3


def test_arrays_and_nothing_to_paste():
    batch = _bank()(_present((ROAD,), (ROAD,)), None, _rng())
    kinds = {name: (a.dtype.name, a.shape) for name, a in batch.items()}
    assert kinds == {
        "images": ("uint8", (2, *SIZE, 3)),
        "labels": ("uint8", (2, *SIZE)),
    }
    assert (batch["labels"][:, :12] == IGNORE).all()
    assert (batch["labels"][:, 12:] == ROAD).all()
    assert set(np.unique(batch["images"])) <= {10, 30}


def test_pastes_only_classes_the_batch_holds_anywhere():
    present, seen = _present((ROAD, POLE), (ROAD,)), set()
    for seed in range(8):
        batch = _bank()(present, None, _rng(seed))
        for image, labels in zip(batch["images"], batch["labels"], strict=True):
            seen |= set(np.unique(labels).tolist())
            assert (image[labels == POLE] == 10).all()
            # 12 by 10 pixels at the image's resolution, 1 to 1.2 times as large.
            assert 120 <= (labels == POLE).sum() <= 14 * 12
            other = labels != POLE
            assert set(np.unique(labels[other])) <= {ROAD, IGNORE}
    assert seen == {ROAD, POLE, IGNORE}


def test_classes_present_are_as_likely_and_one_without_files_is_skipped():
    present, pasted = _present((ROAD, POLE, CAR, BUS)), []
    for seed in range(60):
        labels = _bank()(present, None, _rng(seed))["labels"]
        pasted += [c for c in (POLE, CAR, BUS) if (labels == c).any()]
    assert set(pasted) == {POLE, CAR}
    assert len(pasted) == 60
    assert 15 <= pasted.count(POLE) <= 45
    only_bus = _bank()(_present((BUS,)), None, _rng())["labels"]
    assert set(np.unique(only_bus)) == {ROAD, IGNORE}


def test_same_draws_same_batch():
    bank, present = _bank(), _present((ROAD, POLE), (CAR,), (ROAD,))
    first = bank(present, None, _rng(3))
    again = pickle.loads(pickle.dumps(bank))(present, None, _rng(3))
    other = bank(present, None, _rng(4))
    for name, array in first.items():
        np.testing.assert_array_equal(array, again[name])
        assert (array != other[name]).any()


def test_rows_may_be_made_apart():
    bank = _bank()
    draws = bank.draw(_present((POLE,), (CAR,), (ROAD,)), None, _rng())
    part = dataclasses.replace(
        draws, neighbours=draws.neighbours[1:2], seeds=draws.seeds[1:2]
    )
    whole, alone = bank.apply(draws), bank.apply(part)
    for name in whole:
        np.testing.assert_array_equal(whole[name][1:2], alone[name])


def test_tone_is_of_the_result():
    draws = NeighbourDraws(np.array([1]), np.array([0]), ())
    plain, bright = _bank().apply(draws), _bank(gamma=0.5).apply(draws)
    expected = image_ops.tone(plain["images"][0], 0.5)
    np.testing.assert_array_equal(bright["images"][0], expected)
    np.testing.assert_array_equal(bright["labels"], plain["labels"])


@pytest.mark.parametrize("rows", [0, 2])
def test_refuses_a_bank_without_classes(rows):
    stable = [(0, "a"), (2, "c")][:rows]
    with pytest.raises(DataError, match=f"None of {rows} stable images"):
        _bank(stable=stable, holds=np.zeros((rows, 4), bool))


def test_refuses_a_query_it_cannot_make():
    with pytest.raises(ConfigError, match="overlap"):
        _bank(neighbour="overlapse")
    with pytest.raises(ConfigError, match="styles of the stable images"):
        _bank(neighbour="nearest")
    styles = np.eye(2, dtype=np.float32)
    bank = _bank(neighbour="nearest", styles=styles)
    with pytest.raises(ConfigError, match="styles of the batch"):
        bank(_present((ROAD,)), None, _rng())
