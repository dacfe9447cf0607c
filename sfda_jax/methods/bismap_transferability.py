"""BiSMAP's source transferability maps: how much each source pixel is like the target.

Section 5.1 of its specification. A stage without steps: the maps it stores weigh the
source's loss of `bismap_self_train` and `bismap_distill` (`weights_of`).
"""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from flax import linen as nn
from jaxtyping import Float, Float32

from sfda_jax.data.sized_input import SizedInput
from sfda_jax.methods.base import MethodBase, RoundContext
from sfda_jax.methods.bismap_base import WEIGHT_MAPS
from sfda_jax.models import simclr
from sfda_jax.models.forward import forward
from sfda_jax.pseudo_labels.kmeans import cluster, seed_centres
from sfda_jax.pseudo_labels.placed_rows import place_rows
from sfda_jax.pseudo_labels.transferability import (
    cell_weights,
    mean_distances,
    nearest_distances,
    pool_columns,
    published_boost,
    weight_map,
)
from sfda_jax.types import AdaptState, ModelState, Record, StreamSpec

STUDENT = "student"
"""`extractor` without a network of its own."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method(MethodBase):
    """One round: clusters of target features, then a weight map per source image.

    Attributes:
        extractor: whose features are compared: a SimCLR network of `simclr.PUBLISHED`,
            or the stage's `student`.
        extractor_from: file of the SimCLR network.
        input_size: (height, width) of the extractor's input.
        batch_size: images per forward pass.
        clusters: centres of the target's features.
        mean: `ema` (a mean distance that follows the source images in their order, as
            published) or `global` (one for all).
        decay: weight of the past under `ema`.
        boost: what is added to hard classes: the published numbers for `gta5` or
            `synthia`, or `none`.
        map_size: (height, width) of the maps.
    """

    extractor: str = "r152_sk1"
    extractor_from: str = "r152_1x_sk1.pth"
    input_size: tuple[int, int] = (128, 256)
    batch_size: int = 16
    clusters: int = 40
    mean: str = "ema"
    decay: float = 0.99
    boost: str = "gta5"
    map_size: tuple[int, int] = (1052, 1914)

    adapts: ClassVar[bool] = False
    changes_network: ClassVar[bool] = False
    choices: ClassVar = {
        "extractor": (*simclr.PUBLISHED, STUDENT),
        "mean": ("ema", "global"),
        "boost": ("gta5", "synthia", "none"),
    }

    @property
    def trains_on_source(self) -> bool:
        """It reads labelled source images, though it trains nothing."""
        return True

    def begin_round(
        self, ctx: RoundContext, state: AdaptState
    ) -> tuple[AdaptState, Mapping[str, StreamSpec]]:
        """Stores the maps, unless they are there already."""
        if ctx.store.complete():
            return state, {}
        boost = published_boost(self.boost, ctx.task.classes)
        model, network = self._extractor(ctx, state)
        centres = self._centres(ctx, model, network)
        distances = self._distances(ctx, model, network, centres)
        means = mean_distances(distances, mean=self.mean, decay=self.decay)
        transform = _WeightMap(
            weights=cell_weights(distances, means), boost=boost, size=self.map_size
        )
        store = ctx.store.shared()
        for ids, maps in ctx.forward(
            _unchanged,
            {},
            domain="source",
            transform=transform,
            batch_size=self.batch_size,
            shared=True,
        ):
            for name, values in zip(ids, maps, strict=True):
                store.write(WEIGHT_MAPS, name, values)
        store.save_progress({}, {})
        _wait(ctx)
        store.finish({"mean_distance": float(means[-1])})
        _wait(ctx)
        return state, {}

    def _extractor(
        self, ctx: RoundContext, state: AdaptState
    ) -> tuple[nn.Module, ModelState]:
        if self.extractor == STUDENT:
            return self.model, state.student
        model = simclr.Model(**simclr.PUBLISHED[self.extractor])
        return model, ctx.network(model, self.extractor_from)

    def _centres(
        self, ctx: RoundContext, model: nn.Module, network: ModelState
    ) -> Float[np.ndarray, "k d"]:
        """Centres of the cells of all target images."""

        def cells(variables, images):
            output, _ = forward(
                model, ModelState(**variables), images, statistics="running"
            )
            return pool_columns(output.features)

        found = [
            cells.reshape(-1, cells.shape[-1])
            for _, cells in ctx.forward(
                cells,
                network.variables,
                transform=SizedInput(size=self.input_size, gamma=self.gamma),
                batch_size=self.batch_size,
                shared=True,
            )
        ]
        rows = place_rows(np.concatenate(found), total=ctx.total)
        return cluster(rows, seed_centres(rows, self.clusters, ctx.rng)).centres

    def _distances(
        self,
        ctx: RoundContext,
        model: nn.Module,
        network: ModelState,
        centres: Float[np.ndarray, "k d"],
    ) -> Float32[np.ndarray, "n h w"]:
        """Of the cells of every source image, in the order of the training split."""

        def distances(variables, images):
            network = ModelState(**variables["network"])
            output, _ = forward(model, network, images, statistics="running")
            cells = pool_columns(output.features)
            return nearest_distances(cells, variables["centres"])

        found = [
            own
            for _, own in ctx.forward(
                distances,
                {"network": network.variables, "centres": centres},
                domain="source",
                transform=SizedInput(size=self.input_size),
                batch_size=self.batch_size,
            )
        ]
        return np.concatenate(found)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _WeightMap:
    """`images` uint8[H,W]: the weight map of a source record, not an image.

    Attributes:
        weights: of the cells of every image, by its index.
        boost: of every class.
        size: (height, width) of the map.
    """

    weights: Float32[np.ndarray, "n h w"]
    boost: Float[np.ndarray, "c"]
    size: tuple[int, int]

    def __call__(
        self, record: Record, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        cells = self.weights[record["index"]]
        return {
            "images": weight_map(cells, record["label"], self.boost, size=self.size)
        }


def _unchanged(variables, images):
    """Nothing is to be computed: the maps are made by the threads that read."""
    return images


def _wait(ctx: RoundContext) -> None:
    """Until every process is here."""
    ctx.total(np.zeros(1, np.int64))
