"""From images to mixtures: the rows that each class is fitted to, and the fit.

Sections 5.2, 9 and 10 of BiSMAP's specification. One forward pass over a training
split; of the source, cells that the network gets right; of the target, cells that it is
surest of.
"""

import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Float32, PyTree, UInt8

from sfda_jax.data.sized_input import SizedRecord
from sfda_jax.errors import ConfigError, TrainingError
from sfda_jax.ops.color import normalize
from sfda_jax.pseudo_labels.confidence_histogram import Histogram
from sfda_jax.pseudo_labels.feature_collect import (
    PORTIONS,
    DrawnRows,
    RowPool,
    chosen_cells,
    correct_cells,
    drawn_rows,
)
from sfda_jax.pseudo_labels.gaussian_mixtures import Mixtures
from sfda_jax.pseudo_labels.mixture_fit import MixtureSettings, fit_classes
from sfda_jax.pseudo_labels.prototypes import evaluated
from sfda_jax.pseudo_labels.services import RoundContext
from sfda_jax.pseudo_labels.threshold import likeliest
from sfda_jax.registry import check_choice
from sfda_jax.types import IGNORE, ModelState, SegOutput

_log = logging.getLogger(__name__)

_HOW = ("reservoir", "first")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CollectSettings:
    """Which cells become rows; the defaults are the published values for GTA5.

    Attributes:
        how: `reservoir`, a uniform sample of the whole split; `first`, as published:
            what came first in a shuffled split, and of that a random sample.
        portions: share of the eligible cells of each class that may become rows, one
            for all or one each; 0 leaves a class without a mixture.
        rows: of each class, at most, over all processes.
        pool_rows: of each class that `first` gathers before it samples.
        places: rows that `reservoir` takes from one image, at most.
        reject: of a target class's cells, the share that is too unsure.
        batch_size: images per forward pass.
    """

    how: str = "reservoir"
    portions: tuple[float, ...] = PORTIONS["gta5"]
    rows: int = 300_000
    pool_rows: int = 1_000_000
    places: int = 8192
    reject: float = 0.5
    batch_size: int = 8

    def __post_init__(self):
        """Checks the settings.

        Raises:
            ConfigError: an unknown word, shares outside 0 to 1.
        """
        check_choice("collect.how", self.how, _HOW)
        if not all(0 <= share <= 1 for share in (*self.portions, self.reject)):
            raise ConfigError(
                f"collect.portions is {self.portions} and collect.reject {self.reject}."
                " Expected shares from 0 to 1."
            )

    def class_portions(self, num_classes: int) -> Float32[np.ndarray, "c"]:
        """The portion of every class.

        Raises:
            ConfigError: there are neither one nor C.
        """
        if len(self.portions) not in (1, num_classes):
            raise ConfigError(
                f"collect.portions holds {len(self.portions)} numbers for "
                f"{num_classes} classes.",
                hint="Give one for all, or one for each class in order.",
            )
        return np.resize(np.asarray(self.portions, np.float32), num_classes)


def collect_rows(
    ctx: RoundContext,
    *,
    model: nn.Module,
    network: ModelState,
    settings: CollectSettings,
    domain: str,
    size: tuple[int, int],
    gamma: float = 1.0,
    flip: bool = False,
    mean_twice: bool = False,
) -> list[Float32[np.ndarray, "_ d"]]:
    """Rows of features of each class, of this process's share of the images.

    Args:
        ctx: the round's services.
        model: of `network`.
        network: whose features, with running statistics.
        settings: which cells.
        domain: `source` (cells predicted right) or `target` (cells predicted surely).
        size: (height, width) of the network's input.
        gamma: tone curve of the images.
        flip: mean of an image's features and its mirror image's.
        mean_twice: subtract the mean twice, as published for SYNTHIA.
    """
    passes = _Passes(
        ctx=ctx,
        model=model,
        settings=settings,
        domain=domain,
        transform=SizedRecord(size=size, gamma=gamma),
        flip=flip,
        mean_twice=mean_twice,
    )
    variables: dict[str, Any] = {"network": network.variables}
    if domain == "target":
        variables["thresholds"] = passes.thresholds(variables)
    seed = int(ctx.rng.integers(2**31))
    if settings.how == "reservoir":
        return passes.reservoir(variables, seed)
    return passes.first(variables, seed)


def fit_mixtures(
    ctx: RoundContext,
    pools: Sequence[Float32[np.ndarray, "_ d"]],
    *,
    settings: MixtureSettings,
) -> Mixtures:
    """The mixture of every class that has rows enough.

    Args:
        ctx: the round's services.
        pools: of `collect_rows`.
        settings: of the fit.

    Raises:
        TrainingError: no class has; a log-density that is not finite.
    """
    names = ctx.task.classes.names
    counts = ctx.total(np.array([len(pool) for pool in pools], np.int64))
    if (counts < settings.components).all():
        raise TrainingError(
            f"No class has the {settings.components} rows that its mixture needs: "
            f"{dict(zip(names, counts.tolist(), strict=True))}.",
            hint="Raise collect.portions (1.0 takes all), lower collect.reject, or "
            "start from a network that gets more pixels right, in a new --workdir.",
        )
    mixtures, scores = fit_classes(
        pools, settings=settings, rng=ctx.rng, names=names, total=ctx.total
    )
    for name, count, steps in zip(names, counts.tolist(), scores, strict=True):
        if steps:
            _log.info(
                "Mixture of %s: %d rows, %d EM steps, mean log-density %.1f.",
                *(name, count, len(steps), steps[-1]),
            )
        else:
            _log.warning("No mixture of %s: %d rows.", name, count)
    return mixtures


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Passes:
    """Forward passes over one split."""

    ctx: RoundContext
    model: nn.Module
    settings: CollectSettings
    domain: str
    transform: SizedRecord
    flip: bool
    mean_twice: bool

    @property
    def num_classes(self) -> int:
        return self.ctx.task.classes.num_classes

    def reservoir(self, variables: PyTree, seed: int) -> list[np.ndarray]:
        """A uniform sample of each class's cells."""
        portions = self.settings.class_portions(self.num_classes)
        key = jax.random.key(seed)

        def drawn(variables, batch) -> DrawnRows:
            features, cells = self._cells(variables, batch)
            # of the image alone: the same in any batch, on any device
            keys = jax.vmap(lambda index: jax.random.fold_in(key, index))(
                batch["index"]
            )
            draws = jax.vmap(lambda k: jax.random.uniform(k, cells.shape[1:]))(keys)
            count = min(self.settings.places, draws[0].size)
            return drawn_rows(
                features, cells, draws, portions=jnp.asarray(portions), count=count
            )

        pools, dims = self._pools(self.settings.rows), 0
        for _, found in self._forward(drawn, variables):
            dims = found.features.shape[-1]
            for class_ in np.unique(found.classes[found.classes != IGNORE]):
                own = found.classes == class_
                pools[class_].add(found.features[own], found.draws[own])
        return [pool.rows().reshape(-1, dims) for pool in pools]

    def first(self, variables: PyTree, seed: int) -> list[np.ndarray]:
        """A sample of what came first."""
        shares = self.settings.class_portions(self.num_classes).tolist()
        portions = {class_: share for class_, share in enumerate(shares) if share}
        rng = np.random.default_rng((seed, jax.process_index()))
        pools, dims = self._pools(self.settings.pool_rows), 0
        order = self.ctx.rng.permutation(len(self.ctx.images(self.domain)))
        for _, (features, cells) in self._forward(self._cells, variables, order=order):
            dims = features.shape[-1]
            rows = features.reshape(-1, dims)
            for class_, places in chosen_cells(
                cells, portions, permutation=rng.permutation
            ):
                pools[class_].add_next(rows[places])
            if all(pools[c].offered >= pools[c].capacity for c in portions):
                break
        most = self._share(self.settings.rows)
        found = [pool.rows().reshape(-1, dims) for pool in pools]
        return [rows[rng.permutation(len(rows))[:most]] for rows in found]

    def thresholds(self, variables: PyTree) -> Float32[np.ndarray, "c"]:
        """Of each class, the confidence that a target cell has to reach."""

        def confidences(variables, batch):
            return self._predicted(variables, batch)[1:]

        ranks, total = Histogram(), self.ctx.total
        state = ranks.init(self.num_classes)
        counts = np.zeros(self.num_classes, np.int64)
        for _, (labels, confidence) in self._forward(confidences, variables):
            groups = labels.reshape(-1)
            counts += np.bincount(groups, minlength=self.num_classes)
            state = ranks.add(
                state, groups, confidence.reshape(-1), scratch=self.ctx.scratch
            )
        counts = total(counts)
        kept = counts - np.floor(counts * self.settings.reject).astype(np.int64)
        settled = ranks.settle(
            state,
            ranks=kept,
            zeros=np.zeros_like(counts),
            scratch=self.ctx.scratch,
            total=total,
        )
        return settled["found"]

    def _predicted(
        self, variables: PyTree, batch: PyTree
    ) -> tuple[SegOutput, UInt8[Array, "b h w"], Float[Array, "b h w"]]:
        """The network's output, the class of each cell and how sure it is."""
        images = batch["images"]
        if self.mean_twice:
            images = normalize(images, "imagenet_mean_twice")
        network = variables["network"]
        output = evaluated(self.model, network, images, flip=self.flip)
        probs = jax.nn.softmax(output.logits.astype(jnp.float32), axis=-1)
        return output, *likeliest(probs)

    def _cells(
        self, variables: PyTree, batch: PyTree
    ) -> tuple[Float[Array, "b h w d"], UInt8[Array, "b h w"]]:
        """Features, and the class of each cell that may become a row, else IGNORE."""
        output, labels, confidence = self._predicted(variables, batch)
        features = output.features.astype(jnp.float32)
        if self.domain == "source":
            return features, correct_cells(batch["labels"], output.logits)
        sure = confidence >= variables["thresholds"][labels.astype(jnp.int32)]
        return features, jnp.where(sure, labels, jnp.uint8(IGNORE))

    def _forward(
        self, fn: Callable, variables: PyTree, order: np.ndarray | None = None
    ) -> Iterator[tuple[list[str], PyTree]]:
        names = ("images", "index")
        return self.ctx.forward(
            fn,
            variables,
            domain=self.domain,
            transform=self.transform,
            inputs=(*names, "labels") if self.domain == "source" else names,
            batch_size=self.settings.batch_size,
            order=order,
            shared=True,
        )

    def _pools(self, rows: int) -> list[RowPool]:
        return [RowPool(self._share(rows)) for _ in range(self.num_classes)]

    @staticmethod
    def _share(rows: int) -> int:
        """This process's part; the images are shared too."""
        return -(-rows // jax.process_count())
