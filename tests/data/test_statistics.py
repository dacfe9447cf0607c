import dataclasses

import numpy as np
import pytest

from sfda_jax.data import statistics
from sfda_jax.data.access import DataAccess
from sfda_jax.data.sources import Source
from sfda_jax.data.statistics import (
    ClassPixels,
    count_class_maps,
    count_class_pixels,
    file_name,
    kept,
    smoothed_frequencies,
    spatial_prior,
)
from sfda_jax.errors import DataError
from sfda_jax.tasks import Domain, Task, class_space


class Labels:
    def __init__(self, *labels):
        self.labels = [np.array(label, np.uint8) for label in labels]

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return {"label": self.labels[index], "id": f"n{index}"}


TWO = Labels([[0, 0, 2], [0, 255, 2]], [[2, 2, 2], [255, 255, 255]])


def test_class_pixels():
    pixels = count_class_pixels(TWO, 3)
    assert pixels.ids == ("n0", "n1")
    assert pixels.counts.tolist() == [[3, 0, 2], [0, 0, 3]]
    np.testing.assert_allclose(pixels.frequencies, [3 / 8, 0, 5 / 8])
    assert pixels.presence(3).tolist() == [[True, False, False], [False, False, True]]
    nothing = ClassPixels(ids=("a",), counts=np.zeros((1, 2), np.int64))
    assert nothing.frequencies.tolist() == [0, 0]


def test_order_survives_threads():
    labels = Labels(*(np.full((1, 1 + i % 3), i % 5) for i in range(100)))
    pixels = count_class_pixels(labels, 5)
    assert pixels.ids == tuple(f"n{i}" for i in range(100))
    assert pixels.counts.argmax(1).tolist() == [i % 5 for i in range(100)]
    assert pixels.counts.sum(1).tolist() == [1 + i % 3 for i in range(100)]


def test_a_label_that_cannot_be_read_stops_the_count():
    class Broken(Labels):
        def __getitem__(self, index):
            raise DataError("no such record")

    with pytest.raises(DataError, match="no such record"):
        count_class_pixels(Broken([[0]], [[0]]), 2)


def test_class_maps():
    maps = count_class_maps(TWO, 3, (2, 3))
    assert maps[0].tolist() == [[1, 1, 0], [1, 0, 0]]
    assert maps[2].tolist() == [[1, 1, 2], [0, 0, 1]]
    assert count_class_maps(TWO, 3, (4, 6)).sum() == 4 * maps.sum()


def test_one_tap_is_the_plain_frequency():
    maps = count_class_maps(TWO, 3, (2, 3))
    np.testing.assert_allclose(smoothed_frequencies(maps, 2, kernel=1), maps / 2)


@pytest.mark.parametrize("kernel", [4, 5])
def test_smoothing_reaches_as_far_as_its_kernel(kernel):
    maps = np.zeros((1, 1, 21), np.uint32)
    maps[0, 0, 10] = 1
    smoothed = smoothed_frequencies(maps, 1, kernel=kernel)[0, 0]
    reached = np.flatnonzero(smoothed > 0)
    # out(i) sums in(i - S/2 + 1) … in(i + S/2) for even S
    assert reached.tolist() == list(range(10 - kernel // 2, 11 + (kernel - 1) // 2))
    np.testing.assert_allclose(smoothed.sum(), 1)


def test_priors_sum_to_one():
    maps = count_class_maps(TWO, 3, (2, 3))
    smoothed = smoothed_frequencies(maps, 2, kernel=3)
    per_class = spatial_prior(smoothed)
    np.testing.assert_allclose(per_class.sum((1, 2)), [1, 0, 1])  # class 1 is absent
    per_pixel = spatial_prior(smoothed, normalise="pixel")
    np.testing.assert_allclose(per_pixel.sum(0), 1)


def _counter(value=1):
    calls = []

    def compute():
        calls.append(1)
        return {"counts": np.full(2, value)}

    return calls, compute


def test_computed_once(tmp_path):
    path = tmp_path / "statistics" / "a.npz"
    calls, compute = _counter()
    for _ in range(3):
        assert kept(path, ["x", "y"], compute)["counts"].tolist() == [1, 1]
    assert len(calls) == 1
    assert not list(path.parent.glob("*.unfinished"))


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "text"])
def test_damaged_file_is_computed_anew(tmp_path, damage, caplog):
    path = tmp_path / "a.npz"
    kept(path, ["x"], _counter()[1])
    data = bytearray(path.read_bytes())
    data[60] ^= 255
    path.write_bytes(
        {
            "truncated": path.read_bytes()[:-30],
            "flipped": bytes(data),
            "empty": b"",
            "text": b"not an archive",
        }[damage]
    )
    calls, compute = _counter(2)
    assert kept(path, ["x"], compute)["counts"].tolist() == [2, 2]
    assert len(calls) == 1 and "counting anew" in caplog.text
    kept(path, ["x"], compute)
    assert len(calls) == 1


def test_other_images_are_computed_anew(tmp_path, caplog):
    path = tmp_path / "a.npz"
    kept(path, ["x", "y"], _counter()[1])
    calls, compute = _counter(2)
    assert kept(path, ["y", "x"], compute)["counts"].tolist() == [2, 2]
    assert len(calls) == 1 and "2 other images" in caplog.text


def test_no_place_to_keep_it(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    calls, compute = _counter()
    path = tmp_path / "file" / "a.npz"
    assert kept(path, ["x"], compute)["counts"].tolist() == [1, 1]
    assert len(calls) == 1 and "cannot be kept" in caplog.text


def test_file_names():
    name = file_name("gta5/cityscapes19/1.0.0:ab", "fog_train+x", "", "kind-2x3")
    assert name == "gta5_cityscapes19_1.0.0_ab-fog_train+x-kind-2x3.npz"


@pytest.fixture
def access(tmp_path):
    scenes = {"dataset": "scenes", "eval": "", "variant": "24x48-6"}
    task = Task(
        name="toy",
        source=Domain(train="game_train", **scenes),
        target=Domain(train="real_train", **scenes),
        classes=class_space("cityscapes19"),
        headline="mIoU19",
    )
    return DataAccess(task=task, data_dir=str(tmp_path))


def _files(access, tmp_path):
    return sorted(path.name for path in (tmp_path / "statistics").glob("*.npz"))


def test_access_counts_once_and_reads_no_image(access, tmp_path, monkeypatch):
    opened = []
    original = Source.__init__

    def spy(self, *args, **kwargs):
        opened.append(kwargs)
        original(self, *args, **kwargs)

    monkeypatch.setattr(Source, "__init__", spy)
    pixels = access.class_pixels("source")
    assert [kwargs["pictured"] for kwargs in opened] == [False]
    records = list(access.train("source"))
    assert pixels.ids == tuple(record["id"] for record in records)
    expected = [np.bincount(r["label"].ravel(), minlength=256)[:19] for r in records]
    np.testing.assert_array_equal(pixels.counts, expected)
    maps = access.class_maps("source", (6, 12))
    assert maps.shape == (19, 6, 12) and maps.dtype == np.uint32
    names = _files(access, tmp_path)
    assert ["class_maps19-6x12" in name for name in names] == [True, False]
    assert all("game_train" in name for name in names)

    def recount(*_):
        raise AssertionError("counted again")

    monkeypatch.setattr(statistics, "count_class_pixels", recount)
    monkeypatch.setattr(statistics, "count_class_maps", recount)
    again = access.class_pixels("source")
    np.testing.assert_array_equal(again.counts, pixels.counts)
    assert again.ids == pixels.ids
    np.testing.assert_array_equal(access.class_maps("source", (6, 12)), maps)


def test_lists_have_statistics_of_their_own(access, tmp_path):
    path = tmp_path / "two.txt"
    path.write_text("game_0000004 game_0000002")
    whole = access.class_pixels("source")
    source = dataclasses.replace(access.task.source, train_list=str(path))
    task = dataclasses.replace(access.task, source=source)
    part = dataclasses.replace(access, task=task).class_pixels("source")
    assert part.ids == ("game_0000002", "game_0000004")
    np.testing.assert_array_equal(part.counts, whole.counts[[2, 4]])
    assert len(_files(access, tmp_path)) == 2


def test_stand_ins_are_not_kept(access, tmp_path):
    few = dataclasses.replace(access, limit=2).class_pixels("source")
    assert few.counts.shape == (2, 19)
    made = dataclasses.replace(access, generated_size=(8, 8))
    assert made.class_maps("source", (4, 4)).shape == (19, 4, 4)
    assert made.class_pixels("source").counts.sum() > 0
    assert not (tmp_path / "statistics").exists()


def test_who_may_ask(access):
    with pytest.raises(DataError, match="never read"):
        access.class_pixels("target")
    closed = access.without_source()
    with pytest.raises(DataError, match="source-free"):
        closed.class_pixels("source")
    with pytest.raises(DataError, match="source-free"):
        closed.class_maps("source", (4, 4))
