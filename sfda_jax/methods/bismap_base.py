"""What BiSMAP's training on both domains shares: streams, forward passes, losses.

Lu et al., "Bidirectional Self-Training with Multiple Anisotropic Prototypes for Domain
Adaptive Semantic Segmentation", ACM MM 2022. Defaults are the released ones for GTA5;
where code and paper differ the code is followed.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from sfda_jax.data.retried_crop import RetriedCrop
from sfda_jax.data.training_labels import ReadLabels
from sfda_jax.errors import ConfigError, DataError
from sfda_jax.losses.cross_entropy import mean_cross_entropy, symmetric_cross_entropy
from sfda_jax.methods.base import MethodBase, RoundContext
from sfda_jax.models.forward import enlarged, forward
from sfda_jax.ops.collectives import device_share
from sfda_jax.ops.color import normalize
from sfda_jax.types import (
    IGNORE,
    Key,
    LossAux,
    ModelState,
    StreamSpec,
    Targets,
    Transform,
)

WEIGHT_MAPS = "weights"
"""Name of the source's weight maps in the store of `bismap_transferability`."""

_SOURCE = RetriedCrop()
_TARGET = RetriedCrop(
    full_size=(1024, 2048), base_width=2048, jitter=(0.1, 0.5, 0.5, 0.1)
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BothDomains(MethodBase):
    """Weighted cross-entropy on the source, symmetric cross-entropy on the target.

    Each domain (and each view) is a forward pass of its own, one after the other, so
    that it is normalised by its own statistics and moves the running ones in turn.

    Attributes:
        batch_size: images per step of each domain, over all devices.
        use_source: train on labelled source images too; False is source-free.
        weights_of: an earlier stage, `stage:NAME`, whose maps weigh the source's pixels
            (`bismap_transferability`); empty weighs all alike.
        source_crop: how source images are augmented.
        target_crop: how target images are; its tone curve is `gamma`.
        source_mean_twice: the mean is subtracted twice from source images, as released
            for SYNTHIA (less than a hundredth of a standard deviation).
        ce_weights: of cross-entropy and reverse cross-entropy on the target's labels;
            (1, 0) is plain cross-entropy.
    """

    batch_size: int = 4
    use_source: bool = True
    weights_of: str = "stage:transferability"
    source_crop: RetriedCrop = _SOURCE
    target_crop: RetriedCrop = _TARGET
    source_mean_twice: bool = False
    ce_weights: tuple[float, float] = (0.1, 1.0)

    stage_fields: ClassVar[tuple[str, ...]] = ("weights_of",)

    def __post_init__(self):
        """Checks the settings.

        Raises:
            ConfigError: a stage that is not named as one; a second tone curve.
        """
        super().__post_init__()
        for field in self.stage_fields:
            origin = getattr(self, field)
            if origin and not origin.startswith("stage:"):
                raise ConfigError(
                    f"{self._name}: {field} is {origin!r}.",
                    hint="Expected stage:NAME, an earlier stage of the pipeline, or "
                    "''.",
                )
        if self.target_crop.gamma != 1.0:
            raise ConfigError(
                f"{self._name}: target_crop.gamma is {self.target_crop.gamma:g}.",
                hint="Set gamma instead: evaluation needs the same tone curve.",
            )

    @property
    def trains_on_source(self) -> bool:
        """Unless it is source-free."""
        return self.use_source

    @property
    def reads_labels_of(self) -> tuple[str, ...]:
        """The stage whose weight maps the source's loss takes."""
        return (self.weights_of,) if self.use_source and self.weights_of else ()

    def streams(
        self, ctx: RoundContext, target: Transform | None
    ) -> dict[str, StreamSpec]:
        """The round's streams, each in an order that is new every epoch.

        Args:
            ctx: the round's services.
            target: what is made of target images; None reads none.
        """
        transforms: dict[str, Transform] = {}
        if self.use_source:
            weights = None
            if self.weights_of:
                weights = self.stage_maps(ctx, self.weights_of, WEIGHT_MAPS)
            transforms["source"] = dataclasses.replace(
                self.source_crop, weight_map=weights
            )
        if target is not None:
            transforms["target"] = target
        return {
            domain: StreamSpec(
                domain=domain, batch_size=self.batch_size, transform=transform
            )
            for domain, transform in transforms.items()
        }

    def labelled_crop(self, pseudo: ReadLabels) -> RetriedCrop:
        """`target_crop` with labels, and with the method's tone curve."""
        return dataclasses.replace(self.target_crop, pseudo=pseudo, gamma=self.gamma)

    @staticmethod
    def stage_maps(ctx: RoundContext, origin: str, name: str) -> ReadLabels:
        """Example id → a map that an earlier stage's last round stored.

        Raises:
            DataError: the maps are missing or not as they were written.
        """
        if ctx.trial:  # no other stage has run
            return _checkered
        store = ctx.stage_store(origin)
        if not store.complete():
            raise DataError(
                f"{origin!r} left no complete maps {name!r} in this run.",
                hint="Name a stage that stores such maps, and keep its files; the same "
                "command makes them again in a new --workdir.",
            )
        return functools.partial(store.read, name)

    def logits(
        self, network: ModelState, images: Array, key: Key
    ) -> tuple[Float[Array, "b h w c"], ModelState]:
        """The student's logits at the images' size, and it with new statistics."""
        output, stats = forward(
            self.model, network, images, statistics="batch", key=key
        )
        large = enlarged(self.model, output.logits, images.shape[1:3])
        return large, ModelState(network.params, stats)

    def source_loss(
        self, network: ModelState, batch: Mapping[str, Array], key: Key
    ) -> tuple[Float[Array, ""], ModelState]:
        """This shard's share of the source's loss, and the network after its pass.

        A mean over all labelled pixels, whatever they weigh: a low map lowers it.
        """
        images = batch["images"]
        if self.source_mean_twice:
            images = normalize(images, "imagenet_mean_twice")
        logits, network = self.logits(network, images, key)
        loss = mean_cross_entropy(
            logits,
            batch["labels"].astype(jnp.int32),
            denominator="kept",
            weights=batch.get("weights"),
            axis_name=self.axis_name,
        )
        return loss, network

    def label_loss(
        self, logits: Float[Array, "b h w c"], labels: Int[Array, "b h w"]
    ) -> Float[Array, ""]:
        """This shard's share of the loss on the target's labels."""
        return symmetric_cross_entropy(
            logits, labels, weights=self.ce_weights, axis_name=self.axis_name
        )

    def summed(
        self,
        terms: Mapping[str, Float[Array, ""]],
        network: ModelState,
        targets: Targets,
    ) -> tuple[Float[Array, ""], LossAux]:
        """The sum of a loss's terms, with what the log and the next step need."""
        metrics = {f"loss_{name}": value for name, value in terms.items()}
        metrics["coverage"] = device_share(targets.weights.mean(), self.axis_name)
        aux = LossAux(metrics=metrics, batch_stats=network.batch_stats)
        return sum(terms.values()), aux


def given_labels(batch: Mapping[str, Array]) -> Targets:
    """The labels that a stream brings."""
    labels = batch["labels"].astype(jnp.int32)
    return Targets(labels=labels, weights=(labels != IGNORE).astype(jnp.float32))


def _checkered(example_id: str) -> UInt8[np.ndarray, "32 64"]:
    """A map for trials: no crop is of one value, which would be drawn again."""
    rows, columns = np.indices((32, 64))
    return np.where((rows + columns) % 2, IGNORE, 0).astype(np.uint8)
