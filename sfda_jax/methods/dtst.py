"""DT-ST: dynamic teacher update and training-consistency resampling.

Zhao et al., "Towards Better Stability and Adaptability: Improve Online Self-Training
for Model Adaptation in Semantic Segmentation", CVPR 2023. Defaults are the released
ones for 19 classes; each place where the code departs from the paper follows the code.
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from sfda_jax.losses.cross_entropy import mean_cross_entropy
from sfda_jax.losses.negative_learning import negative_classes, negative_learning
from sfda_jax.methods.online_teacher import OnlineTeacher
from sfda_jax.models.forward import enlarged, forward
from sfda_jax.ops.collectives import device_share
from sfda_jax.types import IGNORE, AdaptState, Batch, Key, LossAux, ModelState, Targets


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method(OnlineTeacher):
    """DT-ST; the teacher is the network to evaluate. One round per candidate refresh.

    Attributes:
        positive_weight: factor of the cross-entropy.
        negative_weight: factor of negative learning.
        positive_mean: cross-entropy over `all` pixels or the `kept` ones.
    """

    positive_weight: float = 1.0
    negative_weight: float = 0.5
    positive_mean: str = "all"

    choices: ClassVar = {**OnlineTeacher.choices, "positive_mean": ("all", "kept")}

    def annotate(
        self, state: AdaptState, batch: Batch, key: Key
    ) -> tuple[AdaptState, Targets]:
        """Scores the student, then labels its crop with the teacher's full view."""
        batch = batch["target"]
        view = self.teach(state, batch, key)
        mixed = batch["mix_labels"].astype(jnp.int32)
        labels = jnp.where(mixed != IGNORE, mixed, self.thresholded(view))
        targets = Targets(
            labels=labels,
            weights=(labels != IGNORE).astype(jnp.float32),
            extras={"ruled_out": negative_classes(view.probs)},
        )
        return view.state, targets

    def loss(
        self,
        params: PyTree,
        state: AdaptState,
        batch: Batch,
        targets: Targets,
        key: Key,
    ) -> tuple[Float[Array, ""], LossAux]:
        """Cross-entropy with the merged labels, and against what is ruled out."""
        images = batch["target"]["images"]
        student = ModelState(params, state.student.batch_stats)
        output, stats = forward(
            self.model, student, images, statistics=self.student_statistics, key=key
        )
        logits = enlarged(self.model, output.logits, images.shape[1:3])
        positive = self.positive_weight * mean_cross_entropy(
            logits,
            targets.labels,
            denominator=self.positive_mean,
            axis_name=self.axis_name,
        )
        # The teacher of the unpasted image, on pasted pixels too, as released.
        negative = self.negative_weight * negative_learning(
            logits, targets.extras["ruled_out"], axis_name=self.axis_name
        )
        metrics = {
            "loss_pos": positive,
            "loss_neg": negative,
            "coverage": device_share(targets.weights.mean(), self.axis_name),
            **self.metrics(state),
        }
        return positive + negative, LossAux(metrics=metrics, batch_stats=stats)
