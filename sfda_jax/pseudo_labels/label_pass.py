"""A round's pseudo-labels: measuring passes, a labelling pass, resumed anywhere."""

import dataclasses
import functools
import logging
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from flax import linen as nn
from jaxtyping import Float, Int, PyTree
from tqdm import tqdm

from sfda_jax.errors import TrainingError
from sfda_jax.pseudo_labels.inference import Inference, Scores
from sfda_jax.pseudo_labels.selector import Selector, State
from sfda_jax.pseudo_labels.services import RoundContext
from sfda_jax.pseudo_labels.store import interleaved
from sfda_jax.types import IGNORE, ModelState

SAVE_EVERY = 16
"""Batches between two saves of a pass's progress."""

_log = logging.getLogger(__name__)


def make_labels(
    ctx: RoundContext,
    *,
    model: nn.Module,
    network: ModelState,
    selector: Selector,
    inference: Inference,
    statistics: str = "running",
    gamma: float = 1.0,
    prior: Float[np.ndarray, "c h w"] | None = None,
    order: Int[np.ndarray, "n"] | None = None,
    scores: Scores | None = None,
    given: Mapping[str, PyTree] | None = None,
) -> dict[str, Any]:
    """Labels the target's training images, unless the store has the labels already.

    Maps are stored as `labels` (train ids, 255 rejected), class weights, where the
    selector gives any, as `soft`. A pass that was cut short goes on where it last saved
    its progress, and ends with the same bits.

    Args:
        ctx: the round's services.
        model: of `network`.
        network: the one that labels.
        selector: which pixels are kept.
        inference: how an image becomes class scores.
        statistics: of the network's BatchNorm, `running` or `batch`.
        gamma: tone curve of the images.
        prior: factor of the scores of every class at every pixel of the labels.
        order: positions to label, one after the other; all in file order by default.
        scores: what is scored instead of the network's probabilities, at the labels'
            size; its variables are `network` and those `given`.
        given: further variables, placed on the devices once.

    Returns:
        The store's meta: `selector` (its module's name), `ids` and `counts` (kept
        pixels of every class) of each image, `thresholds`, and what else the selector's
        `summary` tells. JSON values, the same in every process and on resuming.

    Raises:
        TrainingError: not one pixel was kept.
    """
    if not _everywhere(ctx, ctx.store.complete()):
        variables = {"network": network.variables, **(given or {})}
        if prior is not None:
            variables["prior"] = prior
        if scores is None:
            scores = functools.partial(_probabilities, model, inference, statistics)
        count = len(ctx.images("target") if order is None else order)
        _Passes(
            ctx=ctx,
            store=ctx.store if selector.sequential else ctx.store.shared(),
            selector=selector,
            measure=lambda given, images: selector.measure(scores(given, images)),
            propose=lambda given, images: selector.propose(
                scores(given, images), given["thresholds"]
            ),
            variables=variables,
            feed={
                "transform": inference.transform(gamma),
                "batch_size": inference.batch_size,
                "order": order,
                "shared": not selector.sequential,
            },
            count=count,
        ).run()
    shutil.rmtree(ctx.scratch, ignore_errors=True)
    meta = dict(ctx.store.meta)
    if not ctx.trial:
        _check_kept(meta, ctx.task.classes.names)
    return meta


def _probabilities(model, inference, statistics, given, images):
    """The network's scores, times the prior where one is given."""
    prior = given.get("prior")
    made = inference.make_scores(model, statistics=statistics, prior=prior)
    return made(given["network"], images)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Done:
    """How far the passes of this process have come.

    Attributes:
        number: of the pass; the last one, `selector.num_measures`, labels.
        batches: done of it.
        state: the selector's.
        rows: (id, kept pixels per class) of every image labelled.
    """

    number: int
    batches: int
    state: State
    rows: tuple[tuple[str, list[int]], ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Passes:
    """All passes of one round, in this process.

    `store` is a `LabelStore`; checking that would read `meta`, which is not there yet.
    """

    ctx: RoundContext
    store: Any
    selector: Selector
    measure: Callable[[PyTree, Any], PyTree]
    propose: Callable[[PyTree, Any], Mapping[str, Any]]
    variables: Mapping[str, PyTree]
    feed: Mapping[str, Any]
    count: int

    def run(self) -> None:
        """From the last saved progress to the finished store."""
        done = self._start()
        while done.number < self.selector.num_measures:
            done = self._measured(done)
        done = self._labelled(done)
        self._save(done)
        self._wait()
        rows = interleaved([part["rows"] for part in self.store.parts()])
        self._wait()  # finishing removes what was read just now
        self.store.finish(
            {
                "selector": type(self.selector).__module__.rpartition(".")[2],
                "ids": [name for name, _ in rows],
                "counts": [counts for _, counts in rows],
                **self.selector.summary(done.state),
            }
        )
        self._wait()

    def _start(self) -> _Done:
        """Where this process goes on; at the beginning, unless all can go on."""
        saved = self.store.progress()
        number = batches = -1
        if saved is not None:
            number, batches = saved[0]["number"], saved[0]["batches"]
        # On images of their own, processes need only be in the same pass; one that was
        # killed just before it saved the next would wait for sums that never come.
        place = number if self.feed["shared"] else number * 2**24 + batches
        here = np.array([1, place, place**2], np.int64)
        parts, total, squares = self.ctx.total(here).tolist()
        if saved is not None and parts * squares == total**2:
            facts, state = saved
            _log.info("Labelling goes on in pass %d, batch %d.", number, batches)
            rows = tuple((name, counts) for name, counts in facts["rows"])
            return _Done(number=number, batches=batches, state=state, rows=rows)
        shutil.rmtree(self.ctx.scratch, ignore_errors=True)
        state = self.selector.init(self.ctx.task.classes.num_classes)
        return _Done(number=0, batches=0, state=state)

    def _measured(self, done: _Done) -> _Done:
        """After one measuring pass, settled."""
        title = f"measuring {done.number + 1}/{self.selector.num_measures}"
        state, scratch = done.state, self.ctx.scratch
        scratch.mkdir(parents=True, exist_ok=True)
        passing = self._forward(self.measure, self.variables, done, title)
        for batches, (_, measured) in passing:
            state = self.selector.update(state, measured, scratch=scratch)
            done = dataclasses.replace(done, batches=batches, state=state)
            self._save_sometimes(done)
        state = self.selector.settle(state, scratch=scratch, total=self.ctx.total)
        done = _Done(number=done.number + 1, batches=0, state=state)
        self._save(done)
        return done

    def _labelled(self, done: _Done) -> _Done:
        """After the labelling pass, every map written."""
        classes = self.ctx.task.classes.num_classes
        thresholds = np.asarray(self.selector.thresholds(done.state), np.float32)
        given = {**self.variables, "thresholds": thresholds}
        for batches, (ids, proposed) in self._forward(
            self.propose, given, done, "labelling"
        ):
            state, labels = self.selector.select(done.state, proposed)
            rows = list(done.rows)
            for index, name in enumerate(ids):
                self.store.write("labels", name, labels[index])
                if "soft" in proposed:
                    self.store.write_soft("soft", name, proposed["soft"][index])
                kept = labels[index][labels[index] != IGNORE]
                rows.append((name, np.bincount(kept, minlength=classes).tolist()))
            done = dataclasses.replace(
                done, batches=batches, state=state, rows=tuple(rows)
            )
            self._save_sometimes(done)
        return done

    def _forward(
        self, fn: Callable, variables: PyTree, done: _Done, title: str
    ) -> Iterator[tuple[int, tuple[list[str], PyTree]]]:
        """(batches done with this one, what `fn` gives of it), from `done` on."""
        size = self.feed["batch_size"]
        results = self.ctx.forward(fn, variables, start=done.batches, **self.feed)
        with _bar(title, self.count, done.batches * size) as bar:
            for number, (ids, arrays) in enumerate(results, done.batches + 1):
                yield number, (ids, arrays)
                bar.update(len(ids))

    def _save_sometimes(self, done: _Done) -> None:
        if done.batches % SAVE_EVERY == 0:
            self._save(done)

    def _save(self, done: _Done) -> None:
        facts = {"number": done.number, "batches": done.batches, "rows": done.rows}
        self.store.save_progress(facts, done.state)

    def _wait(self) -> None:
        """Until every process is here."""
        self.ctx.total(np.zeros(1, np.int64))


def _everywhere(ctx: RoundContext, answer: bool) -> bool:
    """Whether the answer is yes in every process."""
    parts, yes = ctx.total(np.array([1, answer], np.int64)).tolist()
    return parts == yes


def _check_kept(meta: Mapping[str, Any], names: tuple[str, ...]) -> None:
    """Nothing kept at all ends the run, a class without labels is worth a warning."""
    kept = np.sum(meta["counts"], axis=0, dtype=np.int64)
    if not kept.any():
        raise TrainingError(
            f"Selector {meta['selector']!r} rejected every pixel of "
            f"{len(meta['ids'])} images; its thresholds: {meta['thresholds']}.",
            hint="Let it keep more (a larger portion, a lower threshold), or start "
            "from a network that is surer, in a new --workdir.",
        )
    absent = [name for name, pixels in zip(names, kept, strict=True) if not pixels]
    if absent:
        _log.warning("No pixel was kept of: %s.", ", ".join(absent))


def _bar(title: str, total: int, initial: int) -> tqdm:
    return tqdm(
        desc=title,
        total=total,
        initial=min(initial, total),
        unit="image",
        dynamic_ncols=True,
        mininterval=0.5 if sys.stderr.isatty() else 20.0,
        file=sys.stderr,
    )
