"""What the driver lends to a round: data, forward passes, a store of label maps."""

import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from flax import linen as nn
from jaxtyping import Num, PyTree, UInt32

from sfda_jax.data.statistics import ClassPixels
from sfda_jax.pseudo_labels.gaussian_mixtures import Mixtures
from sfda_jax.tasks import Task
from sfda_jax.types import ModelState, RandomAccess, Transform


@runtime_checkable
class LabelStore(Protocol):
    """Per-image label maps of one round, written once and read by the streams."""

    def complete(self) -> bool:
        """Whether the round's maps are all there, as they were written."""

    def write(self, name: str, example_id: str, labels: np.ndarray) -> None:
        """Writes one map, uint8[H,W], under a name such as `candidates`."""

    def read(self, name: str, example_id: str) -> np.ndarray:
        """One map, uint8[H,W]."""

    def write_soft(self, name: str, example_id: str, probs: np.ndarray) -> None:
        """Writes one map of class weights, float16[H,W,C]."""

    def read_soft(self, name: str, example_id: str) -> np.ndarray:
        """One map of class weights, float16[H,W,C]."""

    def save_progress(
        self, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
    ) -> None:
        """Remembers how far an unfinished round has come, and the maps written so far.

        Replaces what was remembered before, atomically; `finish` forgets it.
        """

    def progress(self) -> tuple[Mapping[str, Any], Mapping[str, np.ndarray]] | None:
        """What `save_progress` was given last; None where nothing sound is there.

        From then on the maps written before it count as written.
        """

    def shared(self) -> "LabelStore":
        """The same maps, where every process writes those of its own images.

        Otherwise only the first process writes. `finish` takes up what the processes
        had written when they saved their progress last.
        """

    def parts(self) -> list[Mapping[str, Any]]:
        """The facts that every writing process saved last, in the processes' order."""

    def finish(self, meta: Mapping[str, Any]) -> None:
        """Marks the round's maps as complete, with what else it must remember."""

    @property
    def meta(self) -> Mapping[str, Any]:
        """What `finish` was given."""


@runtime_checkable
class RoundContext(Protocol):
    """Services the driver lends to `begin_round`; the only way to data and disk.

    Attributes:
        round: index of the round in its stage, from 0.
        num_steps: steps this round will run.
        rng: host generator, a function of (seed, stage, round).
        store: this round's label maps (already complete when a run is resumed).
        previous: the last round's label maps in this stage, or None in round 0.
        labeller: the network that the round's `labels_from` names, or None: then the
            student labels.
        scratch: folder for what does not fit into memory, of this process alone;
            kept until the round's labels are complete.
        trial: a few images, and an untrained network in the place of the real one:
            only shapes and times matter, not what it predicts.
    """

    round: int
    num_steps: int
    rng: np.random.Generator
    task: Task
    store: LabelStore
    previous: LabelStore | None
    labeller: ModelState | None
    scratch: pathlib.Path
    trial: bool

    def stage_store(self, origin: str) -> LabelStore:
        """The label maps of an earlier stage's last round, `stage:NAME`.

        Or of its round `stage:NAME/ROUND`. See `MethodBase.reads_labels_of`.
        """

    def network(self, model: nn.Module, path: str) -> ModelState:
        """The variables of another network than the run's, from a published file."""

    def keep_mixtures(self, mixtures: Mixtures) -> None:
        """Writes prototypes as `mixtures.npz` into the round's folder."""

    def mixtures(self, origin: str = "") -> Mixtures | None:
        """Prototypes of a file, of a folder of published files, or of `stage:NAME`.

        Without an origin this round's own; None where it has kept none yet.
        """

    def images(self, domain: str) -> RandomAccess:
        """The training split, random access; target records carry no `label`."""

    def class_pixels(self, domain: str) -> ClassPixels:
        """Pixels of each class in each training image of the source, in its order."""

    def class_maps(
        self, domain: str, size: tuple[int, int]
    ) -> UInt32[np.ndarray, "c h w"]:
        """In how many of the source's training images each class lies at each pixel.

        Labels are resized to `size` (height, width), nearest: the counts that
        `data.statistics` makes spatial priors of.
        """

    def total(self, counts: Num[np.ndarray, "..."]) -> Num[np.ndarray, "..."]:
        """The elementwise sum of every process's array; exact for integers."""

    def forward(
        self,
        fn: Callable[[PyTree, PyTree], PyTree],
        variables: PyTree,
        *,
        domain: str = "target",
        transform: Transform,
        inputs: tuple[str, ...] = ("images",),
        batch_size: int,
        order: np.ndarray | None = None,
        start: int = 0,
        shared: bool = False,
    ) -> Iterator[tuple[list[str], PyTree]]:
        """Yields (ids, host arrays) of `fn(variables, images)` over the training split.

        File order, or `order`; `fn` is jitted; the last batch is padded and trimmed.

        Args:
            fn: pure, `images` uint8[b,h,w,3], or a mapping of several `inputs`; its
                results have the batch axis first.
            variables: any pytree, placed on the devices once.
            domain: whose training split.
            transform: gives what `inputs` names.
            inputs: arrays that `fn` takes; one alone comes as it is.
            batch_size: images per forward pass of a process.
            order: positions to visit.
            start: batches to leave out, because an earlier run has done them.
            shared: processes take every P-th image each; otherwise each sees all.
        """
