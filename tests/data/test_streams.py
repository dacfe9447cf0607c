import itertools
import weakref

import numpy as np
import pytest

from sfda_jax.data.streams import evaluation_batches, open_stream
from sfda_jax.errors import ConfigError, DataError
from sfda_jax.types import StreamSpec


class Numbers:
    """Examples whose image holds their position; `bad` cannot be read."""

    def __init__(self, count=10, bad=None):
        self.count, self.bad = count, bad

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index == self.bad:
            raise OSError("truncated file")
        return {"image": np.full((2, 3, 3), index, np.uint8), "id": f"n{index}"}


def noisy(record, rng):
    return {
        "images": record["image"],
        "index": np.array(record["index"], np.int32),
        "noise": rng.random(2),
    }


def plain(record, rng):
    return {"images": record["image"]}


def uneven(record, rng):
    return {"images": np.zeros((1 + record["index"] % 2, 3, 3), np.uint8)}


def refuse_three(record, rng):
    if record["index"] == 3:
        raise DataError("no mask.", hint="Make one.")
    return plain(record, rng)


def _spec(batch_size=4, transform=noisy, order=None):
    return StreamSpec(
        domain="target", batch_size=batch_size, transform=transform, order=order
    )


def _batches(source=None, spec=None, *, steps=5, seed=(1, 2), **settings):
    source = Numbers() if source is None else source
    spec = spec or _spec()
    with open_stream(source, spec, seed=seed, num_steps=steps, **settings) as stream:
        return list(stream)


def _assert_equal(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


def test_stream_is_a_function_of_its_seed():
    first = _batches()
    assert first[0]["images"].shape == (4, 2, 3, 3)
    _assert_equal(first, _batches())
    _assert_equal(first, _batches(threads=1, prefetch=1))
    other = _batches(seed=(1, 3))
    assert any(
        (a["noise"] != b["noise"]).any() for a, b in zip(first, other, strict=True)
    )


def test_every_epoch_visits_all_in_a_new_order():
    batches = _batches(steps=10, spec=_spec(batch_size=2))
    visited = np.concatenate([b["index"] for b in batches])
    first, second = visited[:10], visited[10:]
    assert sorted(first) == sorted(second) == list(range(10))
    assert (first != second).any()
    noise = np.concatenate([b["noise"] for b in batches])
    assert len(np.unique(noise)) == noise.size


@pytest.mark.parametrize("start", [1, 4, 5])
def test_resuming_continues_the_same_stream(start):
    _assert_equal(_batches()[start:], _batches(start=start))


@pytest.mark.parametrize("count", [2, 4])
def test_processes_hold_slices_of_the_global_batch(count):
    parts = [
        _batches(process_index=i, process_count=count, start=1) for i in range(count)
    ]
    joined = [
        {name: np.concatenate([p[name] for p in step]) for name in step[0]}
        for step in zip(*parts, strict=True)
    ]
    _assert_equal(_batches(start=1), joined)


def test_order_is_followed_and_repeated():
    order = np.array([3, 3, 7])
    batches = _batches(spec=_spec(order=order), steps=3)
    visited = np.concatenate([b["index"] for b in batches])
    np.testing.assert_array_equal(visited, np.tile(order, 4))
    assert len(np.unique(np.concatenate([b["noise"] for b in batches]))) == 24


def test_batch_larger_than_the_split():
    (batch,) = _batches(source=Numbers(3), spec=_spec(batch_size=8), steps=1)
    assert sorted(batch["index"][:3]) == [0, 1, 2]


@pytest.mark.slow
def test_worker_processes_give_the_same_batches():
    expected = _batches()
    _assert_equal(expected, _batches(workers=2))
    _assert_equal(expected[3:], _batches(workers=2, start=3))
    with pytest.raises(DataError, match=r"'n3'.*no mask"):
        _batches(spec=_spec(transform=refuse_three), workers=2, steps=3)


@pytest.mark.slow
def test_a_closed_stream_lets_go_of_shared_memory():
    with open_stream(Numbers(), _spec(), seed=(0,), num_steps=4, workers=1) as stream:
        arrays = [weakref.ref(next(stream)["images"]) for _ in range(4)]
    assert all(ref() is None for ref in arrays)
    with pytest.raises(StopIteration):
        next(stream)
    stream.close()


def test_faults_name_the_example():
    with pytest.raises(DataError, match=r"number 4 of its split.*OSError: truncated"):
        _batches(source=Numbers(bad=4))
    with pytest.raises(DataError, match=r"Example 'n3'.*no mask") as caught:
        _batches(spec=_spec(transform=refuse_three))
    assert caught.value.hint == "Make one."


def test_uneven_shapes_are_refused():
    with pytest.raises(DataError, match="a batch needs one shape"):
        _batches(spec=_spec(transform=uneven))


def test_bad_requests_are_refused():
    with pytest.raises(ConfigError, match="batch_size 4 cannot be divided over 3"):
        _batches(process_count=3)
    with pytest.raises(DataError, match="split is empty"):
        _batches(source=Numbers(0))
    with pytest.raises(DataError, match="visits examples 0 to 10"):
        _batches(spec=_spec(order=np.array([0, 10])))
    with pytest.raises(DataError, match="order of examples to visit is empty"):
        _batches(spec=_spec(order=np.array([], np.int64)))


def test_stream_can_be_left_early_and_closed_twice():
    stream = open_stream(Numbers(), _spec(), seed=(0,), num_steps=100)
    next(stream)
    stream.close()
    stream.close()


def test_evaluation_keeps_file_order_and_a_short_last_batch():
    with evaluation_batches(Numbers(), plain, 4) as batches:
        found = list(batches)
    ids = list(itertools.chain.from_iterable(ids for ids, _ in found))
    assert ids == [f"n{i}" for i in range(10)]
    assert [len(a["images"]) for _, a in found] == [4, 4, 2]
    assert found[2][1]["images"][:, 0, 0, 0].tolist() == [8, 9]


def test_evaluation_pads_with_the_last_example():
    found = list(evaluation_batches(Numbers(), plain, 4, pad=True))
    assert found[2][0] == ["n8", "n9"]
    assert found[2][1]["images"][:, 0, 0, 0].tolist() == [8, 9, 9, 9]


def test_evaluation_order():
    found = list(evaluation_batches(Numbers(), plain, 2, order=np.array([5, 1, 2])))
    assert [ids for ids, _ in found] == [["n5", "n1"], ["n2"]]


def test_evaluation_is_split_over_processes():
    parts = [
        list(evaluation_batches(
            Numbers(9), plain, 4, process_index=i, process_count=2
        ))
        for i in range(2)
    ]  # fmt: skip
    assert [[ids for ids, _ in part] for part in parts] == [
        [["n0", "n1"], ["n4", "n5"], ["n8"]],
        [["n2", "n3"], ["n6", "n7"], []],
    ]
    assert all(len(a["images"]) == 2 for part in parts for _, a in part)


def test_evaluation_faults_name_the_example():
    with pytest.raises(DataError, match="number 9 of its split"):
        list(evaluation_batches(Numbers(bad=9), plain, 4))
