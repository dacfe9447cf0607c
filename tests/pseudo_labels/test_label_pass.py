"""A round's labelling, cut short after any batch, ends with the same bits."""

import concurrent.futures
import dataclasses
import logging
import threading
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
import pytest

from sfda_jax.errors import TrainingError
from sfda_jax.pseudo_labels import (
    class_balanced,
    constant,
    instance_adaptive,
    label_pass,
)
from sfda_jax.pseudo_labels.inference import Inference
from sfda_jax.pseudo_labels.label_pass import make_labels
from sfda_jax.pseudo_labels.store import MANIFEST, PseudoLabelStore
from tests.methods.stand_ins import (
    Context,
    make_images,
    make_model,
    make_network,
    make_task,
)

MODEL = make_model()
NETWORK = make_network(MODEL)
INFERENCE = Inference(batch_size=2)


class Killed(Exception):
    """Stands for a kill after some batches."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measuring:
    """Keeps above the mean confidence of each class; leaves a file in scratch.

    As a spool does: cut to what the state knows of before anything is added.
    """

    num_measures: ClassVar[int] = 2
    sequential: ClassVar[bool] = False

    def init(self, num_classes):
        return {
            "total": np.zeros(num_classes, np.float64),
            "agreed": np.zeros(num_classes, np.float64),
            "spooled": np.zeros((), np.int64),
            "settled": np.zeros((), np.int64),
        }

    def measure(self, probs):
        return {"sum": probs.sum((1, 2))}

    def update(self, state, measured, *, scratch):
        path = scratch / "spool"
        path.touch()
        with path.open("r+b") as file:
            file.truncate(int(state["spooled"]))
            file.seek(0, 2)
            file.write(measured["sum"].tobytes())
            size = file.tell()
        total = state["total"] + measured["sum"].sum(0, dtype=np.float64)
        return {**state, "total": total, "spooled": np.asarray(size)}

    def settle(self, state, *, scratch, total):
        spool = np.fromfile(scratch / "spool", np.float32).reshape(-1, 5)
        np.testing.assert_allclose(spool.sum(0, np.float64), state["total"])
        agreed = total(state["total"])
        return {**state, "agreed": agreed, "settled": state["settled"] + 1}

    def thresholds(self, state):
        return np.full(5, 0.2, np.float32)

    def propose(self, probs, thresholds):
        labels = probs.argmax(-1).astype(jnp.uint8)
        kept = probs.max(-1) > thresholds[labels.astype(jnp.int32)]
        return {
            "labels": jnp.where(kept, labels, jnp.uint8(255)),
            "soft": probs.astype(jnp.float16),
        }

    def select(self, state, proposed):
        seen = state["total"] + proposed["labels"].sum(dtype=np.float64)
        return {**state, "total": seen}, proposed["labels"]

    def summary(self, state):
        found = [*state["agreed"], *state["total"]]
        return {"thresholds": found, "settled": int(state["settled"])}


@dataclasses.dataclass
class Fragile(Context):
    """A context whose passes end after so many batches in all."""

    left: int = 10**9
    starts: list = dataclasses.field(default_factory=list)

    def forward(self, fn, variables, **options):
        self.starts.append(options["start"])
        for result in super().forward(fn, variables, **options):
            if not self.left:
                raise Killed
            self.left -= 1
            yield result


def context(folder, *, left=10**9, count=7):
    return Fragile(
        records=make_images(count),
        task=make_task(),
        store=PseudoLabelStore(folder / "store"),
        scratch=folder / "scratch",
        left=left,
    )


def label(ctx, selector, **options):
    return make_labels(
        ctx,
        model=MODEL,
        network=NETWORK,
        selector=selector,
        **{"inference": INFERENCE, **options},
    )


def files(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(folder, meta) of a round that nothing cut short."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, label(context(folder), Measuring())


@pytest.mark.parametrize("killed", [[1], [4], [9], [11], [2, 1, 2, 3]])
def test_resumed_after_any_batch(tmp_path, monkeypatch, whole, killed):
    monkeypatch.setattr(label_pass, "SAVE_EVERY", 2)
    saved = 0
    for left in killed:
        saved = (saved + left) // 2 * 2
        with pytest.raises(Killed):
            label(context(tmp_path, left=left), Measuring())
    again = context(tmp_path)
    assert label(again, Measuring()) == whole[1]
    assert files(tmp_path) == files(whole[0])
    # what was saved is not done again
    assert again.starts == [saved % 4, 0, 0][: 3 - saved // 4]


def test_meta_and_maps(whole):
    folder, meta = whole
    ctx = context(folder)
    assert meta["selector"] == "test_label_pass" and meta["settled"] == 2
    assert meta["ids"] == [f"image_{i}" for i in range(7)]
    assert ctx.store.ids("labels") == ctx.store.ids("soft") == meta["ids"]
    for name, counts in zip(meta["ids"], meta["counts"], strict=True):
        labels = ctx.store.read("labels", name)
        soft = ctx.store.read_soft("soft", name)
        assert soft.dtype == np.float16 and soft.shape == (*labels.shape, 5)
        expected = np.where(soft.max(-1) > 0.2, soft.argmax(-1), 255)
        assert (labels == expected).mean() > 0.99
        assert counts == [int((labels == c).sum()) for c in range(5)]
    assert not (folder / "scratch").exists()
    assert not list((folder / "store").glob("PROGRESS*"))


def test_complete_store_is_not_made_again(whole):
    folder, meta = whole
    ctx = context(folder)
    assert label(ctx, Measuring()) == meta
    assert not ctx.starts


def test_order_and_prior(tmp_path):
    order = np.array([5, 0, 3])
    ctx = context(tmp_path)
    prior = np.zeros((5, 32, 48))
    prior[3] = 1.0
    meta = label(ctx, constant.Selector(threshold=0.01), order=order, prior=prior)
    assert meta["ids"] == ["image_5", "image_0", "image_3"]
    assert meta["selector"] == "constant" and meta["thresholds"] == [0.01] * 5
    kept = np.array(meta["counts"])
    assert kept[:, 3].all() and not np.delete(kept, 3, axis=1).any()


def test_absent_classes_are_told_once(tmp_path, caplog):
    prior = np.zeros((5, 32, 48))
    prior[3] = 1.0
    selector = constant.Selector(threshold=0.01)
    with caplog.at_level(logging.WARNING):
        label(context(tmp_path), selector, prior=prior)
    told = [record.getMessage() for record in caplog.records]
    assert told == ["No pixel was kept of: a, b, c, e."]


def test_nothing_kept_ends_the_run_and_every_retry(tmp_path):
    for _ in range(2):
        with pytest.raises(TrainingError, match=r"rejected every pixel.*1\.5.*more"):
            label(context(tmp_path), constant.Selector(threshold=1.5))


def test_damaged_progress_starts_over(tmp_path, monkeypatch, whole):
    monkeypatch.setattr(label_pass, "SAVE_EVERY", 1)
    with pytest.raises(Killed):
        label(context(tmp_path, left=10), Measuring())
    assert not (tmp_path / "store" / MANIFEST).exists()
    path = tmp_path / "store" / "labels" / "image_1.png"
    path.write_bytes(path.read_bytes()[:-1])
    again = context(tmp_path)
    assert label(again, Measuring()) == whole[1]
    assert again.starts == [0, 0, 0]
    assert files(tmp_path) == files(whole[0])


class Sums:
    """Sums over threads that stand for processes."""

    def __init__(self, count):
        self._arrays = [None] * count
        self.barrier = threading.Barrier(count, timeout=60)

    def total(self, index, counts):
        self._arrays[index] = counts
        self.barrier.wait()
        found = np.sum(self._arrays, axis=0, dtype=counts.dtype)
        self.barrier.wait()
        return found


@dataclasses.dataclass
class Member(Fragile):
    """One of several processes."""

    sums: Sums | None = None
    part: tuple = (0, 1)

    def total(self, counts):
        return self.sums.total(self.part[0], counts)

    def forward(self, fn, variables, *, order=None, shared=False, **options):
        order = np.arange(len(self.records)) if order is None else order
        if shared:
            order = order[self.part[0] :: self.part[1]]
        return super().forward(fn, variables, order=order, **options)


def together(folder, selector, *, lefts, inference=INFERENCE, images=7):
    """What every process returns, or the error that it ended with."""
    sums = Sums(len(lefts))

    def member(index):
        part = (index, len(lefts))
        ctx = Member(
            records=make_images(images),
            task=make_task(),
            store=PseudoLabelStore(folder / "store", part=part),
            scratch=folder / f"scratch-{index}",
            left=lefts[index],
            sums=sums,
            part=part,
        )
        try:
            meta = make_labels(
                ctx,
                model=MODEL,
                network=NETWORK,
                selector=selector,
                inference=inference,
            )
        except (Killed, threading.BrokenBarrierError) as error:
            sums.barrier.abort()
            return error, ctx.starts
        return meta, ctx.starts

    with concurrent.futures.ThreadPoolExecutor(len(lefts)) as pool:
        return list(pool.map(member, range(len(lefts))))


MANY = 10**9
SELECTORS = {
    "instance_adaptive": instance_adaptive.Selector(instance_size=1),
    **{
        name: class_balanced.Selector(accumulate=name, portion=0.4)
        for name in ("exact_spool", "exact_radix", "hist")
    },
}


@pytest.mark.parametrize("name", SELECTORS)
def test_any_number_of_processes(tmp_path, name):
    selector = SELECTORS[name]
    single = Inference(batch_size=1)  # one program whatever the number
    alone = context(tmp_path / "1", count=3)
    meta = label(alone, selector, inference=single)
    # of four processes, one has no image
    for count in (2, 4) if name == "exact_spool" else (2,):
        folder = tmp_path / str(count)
        found = together(
            folder, selector, lefts=[MANY] * count, inference=single, images=3
        )
        assert all(made == meta for made, _ in found)
        assert files(folder) == files(tmp_path / "1")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """(folder, what two processes returned) of a round that nothing cut short."""
    folder = tmp_path_factory.mktemp("pair")
    found = together(folder, Measuring(), lefts=(MANY, MANY))
    return folder, [made for made, _ in found]


@pytest.mark.parametrize(
    ("lefts", "starts"),
    [
        ((1, 2), [[1, 0, 0], [2, 0, 0]]),  # amid the first pass, at different places
        ((3, 9), [[1, 0], [2, 0]]),
    ],
)
def test_processes_go_on_together(tmp_path, monkeypatch, pair, lefts, starts):
    monkeypatch.setattr(label_pass, "SAVE_EVERY", 1)
    cut = together(tmp_path, Measuring(), lefts=lefts)
    assert all(isinstance(error, Exception) for error, _ in cut)
    again = together(tmp_path, Measuring(), lefts=(MANY, MANY))
    assert [made for made, _ in again] == pair[1]
    assert [seen for _, seen in again] == starts
    assert files(tmp_path) == files(pair[0])


def test_processes_that_disagree_start_over(tmp_path, monkeypatch, pair):
    monkeypatch.setattr(label_pass, "SAVE_EVERY", 1)
    together(tmp_path, Measuring(), lefts=(3, 3))
    # the second was killed before it saved what the first had saved
    (tmp_path / "store" / "PROGRESS-001.npz").unlink()
    again = together(tmp_path, Measuring(), lefts=(MANY, MANY))
    assert [seen for _, seen in again] == [[0, 0, 0]] * 2
    assert [made for made, _ in again] == pair[1]


def test_progress_of_another_number_of_processes_is_ignored(tmp_path, monkeypatch):
    monkeypatch.setattr(label_pass, "SAVE_EVERY", 1)
    together(tmp_path, Measuring(), lefts=(3, 3))
    alone = context(tmp_path)
    meta = label(alone, Measuring())
    assert alone.starts == [0, 0, 0]
    assert meta["ids"] == [f"image_{i}" for i in range(7)]
    assert not list((tmp_path / "store").glob("PROGRESS*"))
