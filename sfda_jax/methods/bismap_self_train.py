"""BiSMAP's self-training: weighted source, fixed pseudo-labels, consistency.

Section 6 of its specification. The labels are those of an earlier stage and stay; what
moves is the teacher, an average of the student that sees the plain target crop where
the student sees other colours and a black box.
"""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from sfda_jax import teachers
from sfda_jax.data.occluded_view import OccludedView
from sfda_jax.errors import ConfigError
from sfda_jax.losses.consistency import mean_divergence
from sfda_jax.methods.base import RoundContext
from sfda_jax.methods.bismap_base import BothDomains, given_labels
from sfda_jax.models.forward import enlarged, forward
from sfda_jax.ops.schedules import ramp_up
from sfda_jax.types import (
    AdaptState,
    Batch,
    Key,
    LossAux,
    ModelState,
    StreamSpec,
    Targets,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method(BothDomains):
    """One round on both domains, or source-free on the target alone.

    The warm-up that makes the first labels has no released settings. `labels_of=""`
    with `consistency=0` leaves the source's loss alone, which is what it is taken to
    be [U: a reconstruction that could not be verified].

    Attributes:
        labels_of: the earlier stage, `stage:NAME`, whose labels the target has; empty
            leaves the target out.
        consistency: weight of the consistency loss; 0 needs no teacher.
        ramp_steps: steps over which that weight rises.
        counted: pixels of the consistency loss: those `visible` to the student, as
            released, those `occluded`, `all`.
        operations: of RandAugment in the student's view, each applied half of the time.
        hidden_share: side of the black box in it, over the crop's width.
        ema_decay: weight of the teacher's past.
    """

    labels_of: str = "stage:prototypes"
    consistency: float = 30.0
    ramp_steps: int = 4000
    counted: str = "visible"
    operations: int = 2
    hidden_share: float = 0.2
    ema_decay: float = 0.999

    stage_fields: ClassVar = (*BothDomains.stage_fields, "labels_of")
    choices: ClassVar = {"counted": ("visible", "occluded", "all")}

    def __post_init__(self):
        """Checks the settings.

        Raises:
            ConfigError: as of `BothDomains`; nothing to train on; consistency without
                target images.
        """
        super().__post_init__()
        if self.consistency and not self.labels_of:
            raise ConfigError(
                f"{self._name}: consistency is {self.consistency:g}, but without "
                "labels_of no target image is read.",
                hint="Name the stage that labels the target, or set consistency to 0.",
            )
        if not self.use_source and not self.labels_of:
            raise ConfigError(
                f"{self._name}: neither use_source nor labels_of: nothing to train on.",
                hint="Name the stage that labels the target in labels_of.",
            )

    @property
    def adapts(self) -> bool:
        """Unless it is the warm-up."""
        return bool(self.labels_of)

    @property
    def reads_labels_of(self) -> tuple[str, ...]:
        """The stages of the weight maps and of the labels."""
        labels = (self.labels_of,) if self.labels_of else ()
        return (*super().reads_labels_of, *labels)

    def init(self, state: AdaptState, key: Key) -> AdaptState:
        """Copies the teacher from the student, where there is one."""
        if not self.consistency:
            return state
        return state.replace(teacher=jax.tree.map(jnp.copy, state.student))

    def begin_round(
        self, ctx: RoundContext, state: AdaptState
    ) -> tuple[AdaptState, Mapping[str, StreamSpec]]:
        """Crops of both domains; the target's with labels and the student's view."""
        target = None
        if self.labels_of:
            target = self.labelled_crop(
                self.stage_maps(ctx, self.labels_of, self.label_maps)
            )
            if self.consistency:
                target = OccludedView(
                    crop=target,
                    operations=self.operations,
                    hidden_share=self.hidden_share,
                )
        return state, self.streams(ctx, target)

    def annotate(
        self, state: AdaptState, batch: Batch, key: Key
    ) -> tuple[AdaptState, Targets]:
        """Moves the teacher towards the student as it is, then asks it.

        It normalises with the statistics of the batch and drops nothing out.
        """
        if not self.labels_of:
            return state, given_labels(batch["source"])
        targets = given_labels(batch["target"])
        if not self.consistency:
            return state, targets
        teacher = teachers.ema(
            state.teacher, state.student, decay=self.ema_decay, batch_stats="copy"
        )
        output, _ = forward(
            self.model, teacher, batch["target"]["images"], statistics="batch"
        )
        targets = targets.replace(extras={"teacher_logits": output.logits})
        return state.replace(teacher=teacher), targets

    def loss(
        self,
        params: PyTree,
        state: AdaptState,
        batch: Batch,
        targets: Targets,
        key: Key,
    ) -> tuple[Float[Array, ""], LossAux]:
        """Source, then the student's view, then the plain target crop."""
        network = ModelState(params, state.student.batch_stats)
        source_key, view_key, target_key = jax.random.split(key, 3)
        terms = {}
        if self.use_source:
            terms["source"], network = self.source_loss(
                network, batch["source"], source_key
            )
        if self.consistency:
            divergence, network = self._divergence(
                network, batch["target"], targets, view_key
            )
            ramp = ramp_up(state.step, length=self.ramp_steps)
            terms["consistency"] = self.consistency * ramp * divergence
        if self.labels_of:
            images = batch["target"]["images"]
            logits, network = self.logits(network, images, target_key)
            terms["labels"] = self.label_loss(logits, targets.labels)
        return self.summed(terms, network, targets)

    def _divergence(
        self,
        network: ModelState,
        batch: Mapping[str, Array],
        targets: Targets,
        key: Key,
    ) -> tuple[Float[Array, ""], ModelState]:
        """How far the student's view of the batch is from what the teacher says."""
        hidden = batch["occluded"]
        counted = {
            "visible": ~hidden,
            "occluded": hidden,
            "all": jnp.ones_like(hidden),
        }[self.counted]
        logits, network = self.logits(network, batch["student_images"], key)
        teacher = enlarged(
            self.model, targets.extras["teacher_logits"], hidden.shape[1:3]
        )
        loss = mean_divergence(logits, teacher, counted, axis_name=self.axis_name)
        return loss, network
