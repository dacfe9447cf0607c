"""IAST: instance-adaptive pseudo-labels and two region-guided regularisers.

Mei et al., "Instance Adaptive Self-Training for Unsupervised Domain Adaptation", ECCV
2020. Defaults are the released ones for GTA5 on one 32 GB GPU; where code and paper
differ the code is followed. A round never sees the source unless `source_weight` is
set, so that any source model can start one.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from sfda_jax.data.sized_crop import SizedCrop, sized_streams
from sfda_jax.data.torch_order import torch_randperm
from sfda_jax.losses import regularizers
from sfda_jax.losses.cross_entropy import mean_cross_entropy
from sfda_jax.methods.base import MethodBase, RoundContext
from sfda_jax.models.forward import forward
from sfda_jax.ops.resize import resize_bilinear
from sfda_jax.pseudo_labels import instance_adaptive
from sfda_jax.pseudo_labels.inference import Inference
from sfda_jax.pseudo_labels.label_pass import make_labels
from sfda_jax.pseudo_labels.selector import Selector
from sfda_jax.types import (
    IGNORE,
    AdaptState,
    Batch,
    Key,
    LossAux,
    ModelState,
    StreamSpec,
    Targets,
)

_SELECTOR = instance_adaptive.Selector()
_INFERENCE = Inference(size=(640, 1280), resample="lanczos", batch_size=2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method(MethodBase):
    """Rounds of labelling the target once and training on it.

    Attributes:
        batch_size: images per step, over all devices.
        crop_size: (height, width) of the network's input in training.
        target_heights: least and greatest height of a target crop, which has the aspect
            of `crop_size` and is resized to it.
        source_heights: the same of source crops.
        selector: which predictions become labels, `alpha` 0.2, 0.25, 0.3 by round.
        inference: how an image is predicted when it is labelled; `size` (640, 1280),
            then (768, 1536) published.
        label_order: images are labelled in the `published` order or that of the `file`;
            thresholds depend on it.
        train_order: `published`: one fixed order of the images, the incomplete last
            batch left out; `shuffled`: a new order every epoch.
        label_weight: of the cross-entropy with the labels.
        entropy_weight: of the entropy of rejected pixels.
        kld_weight: of the divergence of kept pixels from the uniform distribution.
        source_weight: of the source's cross-entropy; 0 (published) reads no source.
        region_norm: what both regularisers are divided by: `pixels_times_classes` as
            released, `pixels`.
        empty_region: where a batch keeps, or rejects, no pixel: the terms of this
            region are 0 (`zero`), the loss is undefined (`nan`), or parameters stay
            as they are (`skip_step`, what mixed precision did when released).
        student_statistics: BatchNorm in training: of the `batch` (published),
            `running`.
        label_statistics: the same in labelling, published is `running`.
    """

    batch_size: int = 8
    crop_size: tuple[int, int] = (512, 1024)
    target_heights: tuple[int, int] = (341, 1000)
    source_heights: tuple[int, int] = (341, 950)
    selector: Selector = _SELECTOR
    inference: Inference = _INFERENCE
    label_order: str = "published"
    train_order: str = "published"
    label_weight: float = 1.0
    entropy_weight: float = 3.0
    kld_weight: float = 0.1
    source_weight: float = 0.0
    region_norm: str = "pixels_times_classes"
    empty_region: str = "zero"
    student_statistics: str = "batch"
    label_statistics: str = "running"

    choices: ClassVar = {
        "label_order": ("published", "file"),
        "train_order": ("published", "shuffled"),
        "region_norm": ("pixels_times_classes", "pixels"),
        "empty_region": ("zero", "nan", "skip_step"),
        "student_statistics": ("running", "batch"),
        "label_statistics": ("running", "batch"),
    }

    @property
    def trains_on_source(self) -> bool:
        """Only with a weight on its cross-entropy."""
        return self.source_weight > 0

    def begin_round(
        self, ctx: RoundContext, state: AdaptState
    ) -> tuple[AdaptState, Mapping[str, StreamSpec]]:
        """Labels the target, unless a resumed run has done so already."""
        order = None
        if self.label_order == "published":
            order = torch_randperm(len(ctx.images("target")))
        make_labels(
            ctx,
            model=self.model,
            network=state.student if ctx.labeller is None else ctx.labeller,
            selector=self.selector,
            inference=self.inference,
            statistics=self.label_statistics,
            gamma=self.gamma,
            order=order,
        )
        crops = {
            "target": SizedCrop(
                size=self.crop_size,
                heights=self.target_heights,
                gamma=self.gamma,
                pseudo=functools.partial(ctx.store.read, self.label_maps),
            )
        }
        if self.trains_on_source:
            crops["source"] = SizedCrop(
                size=self.crop_size, heights=self.source_heights
            )
        streams = sized_streams(
            crops, ctx.images, batch_size=self.batch_size, order=self.train_order
        )
        return state, streams

    def annotate(
        self, state: AdaptState, batch: Batch, key: Key
    ) -> tuple[AdaptState, Targets]:
        """The labels of the round."""
        labels = batch["target"]["labels"].astype(jnp.int32)
        kept = (labels != IGNORE).astype(jnp.float32)
        return state, Targets(labels=labels, weights=kept)

    def loss(
        self,
        params: PyTree,
        state: AdaptState,
        batch: Batch,
        targets: Targets,
        key: Key,
    ) -> tuple[Float[Array, ""], LossAux]:
        """Cross-entropy and KLD of kept pixels, entropy of rejected ones."""
        network = ModelState(params, state.student.batch_stats)
        source_key, target_key = jax.random.split(key)
        terms = {}
        if self.trains_on_source:
            images = batch["source"]["images"]
            logits, network = self._logits(network, images, source_key)
            terms["source"] = self.source_weight * self._cross_entropy(
                logits, batch["source"]["labels"].astype(jnp.int32)
            )
        logits, network = self._logits(network, batch["target"]["images"], target_key)
        terms["labels"] = self.label_weight * self._cross_entropy(
            logits, targets.labels
        )
        region = {"region_norm": self.region_norm, "axis_name": self.axis_name}
        if self.entropy_weight:
            terms["entropy"] = self.entropy_weight * regularizers.region_entropy(
                logits, targets.labels, **region
            )
        if self.kld_weight:
            terms["kld"] = self.kld_weight * regularizers.region_kld(
                logits, targets.labels, **region
            )
        total = sum(terms.values())
        sizes = regularizers.region_sizes(targets.labels, self.axis_name)
        undefined = sizes.kept == 0
        if self.entropy_weight:
            undefined = undefined | (sizes.ignored == 0)
        if self.empty_region == "nan":
            total = regularizers.nan_where(undefined, total, logits)
        metrics = {f"loss_{name}": value for name, value in terms.items()}
        metrics["coverage"] = targets.weights.sum() / sum(sizes).astype(jnp.float32)
        return total, LossAux(
            metrics=metrics,
            batch_stats=network.batch_stats,
            skip=undefined if self.empty_region == "skip_step" else None,
        )

    def _logits(
        self, network: ModelState, images: Array, key: Key
    ) -> tuple[Float[Array, "b h w c"], ModelState]:
        """Logits at the size of the images, and the network with new statistics."""
        output, stats = forward(
            self.model, network, images, statistics=self.student_statistics, key=key
        )
        logits = resize_bilinear(
            output.logits, images.shape[1:3], align_corners=self.model.align_corners
        )
        return logits, ModelState(network.params, stats)

    def _cross_entropy(self, logits: Array, labels: Array) -> Float[Array, ""]:
        return mean_cross_entropy(
            logits, labels, denominator="kept", axis_name=self.axis_name
        )
