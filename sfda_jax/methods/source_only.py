"""Supervised training on the source domain: the model that adaptation starts from."""

import dataclasses
from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from sfda_jax.data import transforms
from sfda_jax.errors import ConfigError
from sfda_jax.losses.cross_entropy import mean_cross_entropy
from sfda_jax.methods.base import MethodBase, RoundContext
from sfda_jax.models.forward import forward
from sfda_jax.ops.resize import resize_bilinear
from sfda_jax.registry import check_choice
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

_STATISTICS = ("running", "batch")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method(MethodBase):
    """Cross-entropy over the labelled pixels; defaults of DT-ST's GTA5 model.

    Attributes:
        batch_size: images per step, over all devices.
        size: (height, width) images are resized to before scaling.
        scale_range: factor of that size, drawn uniformly.
        crop_size: (height, width) cut out at random; () trains on the whole image.
        flip: mirror half of the images.
        jitter: strengths of brightness, contrast, saturation, hue.
        gray_probability: of losing all colour.
        student_statistics: BatchNorm: `running` (published, frozen) or `batch`.
    """

    batch_size: int = 4
    size: tuple[int, int] = (720, 1280)
    scale_range: tuple[float, float] = (1.0, 1.0)
    crop_size: tuple[int, ...] = ()
    flip: bool = False
    jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    gray_probability: float = 0.1
    student_statistics: str = "running"

    trains_on_source = True

    def __post_init__(self):
        statistics = self.student_statistics
        check_choice("source_only: student_statistics", statistics, _STATISTICS)
        if len(self.crop_size) not in (0, 2):
            raise ConfigError(
                f"source_only: crop_size is {self.crop_size}; expected (height, width) "
                "or ()."
            )

    def begin_round(
        self, ctx: RoundContext, state: AdaptState
    ) -> tuple[AdaptState, Mapping[str, StreamSpec]]:
        """The source stream; nothing to prepare."""
        transform = transforms.SourceTrain(
            size=self.size,
            scale_range=self.scale_range,
            crop=self.crop_size or None,
            flip=self.flip,
            jitter=self.jitter,
            gray_probability=self.gray_probability,
        )
        stream = StreamSpec(
            domain="source", batch_size=self.batch_size, transform=transform
        )
        return state, {"source": stream}

    def annotate(
        self, state: AdaptState, batch: Batch, key: Key
    ) -> tuple[AdaptState, Targets]:
        """The source's own labels."""
        labels = batch["source"]["labels"].astype(jnp.int32)
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
        """This shard's share of the mean cross-entropy over labelled pixels."""
        output, stats = forward(
            self.model,
            ModelState(params, state.student.batch_stats),
            batch["source"]["images"],
            statistics=self.student_statistics,
            key=key,
        )
        logits = resize_bilinear(
            output.logits, targets.labels.shape[1:3], align_corners=True
        )
        loss = mean_cross_entropy(
            logits, targets.labels, denominator="kept", axis_name=self.axis_name
        )
        return loss, LossAux(metrics={}, batch_stats=stats)
