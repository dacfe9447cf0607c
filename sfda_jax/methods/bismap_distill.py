"""BiSMAP's self-distillation: a fresh student learns what its predecessor predicts.

Section 6 of its specification. Published are two rounds, each from SimCLR weights
(`init_from`) and with the network trained last as the teacher (`labels_from`).
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from sfda_jax.losses.distillation import distillation_loss
from sfda_jax.methods.base import RoundContext
from sfda_jax.methods.bismap_base import BothDomains, given_labels
from sfda_jax.models.forward import enlarged, forward
from sfda_jax.pseudo_labels import constant
from sfda_jax.pseudo_labels.inference import Inference
from sfda_jax.pseudo_labels.label_pass import make_labels
from sfda_jax.pseudo_labels.selector import Selector
from sfda_jax.types import (
    AdaptState,
    Batch,
    Key,
    LossAux,
    ModelState,
    StreamSpec,
    Targets,
)

_SELECTOR = constant.Selector(threshold=0.0)
_INFERENCE = Inference(
    size=(1024, 2048),
    view_sizes=((768, 1536), (1024, 2048), (1536, 3072)),
    flip=True,
    enlarge="mean_logits",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method(BothDomains):
    """Rounds of labelling the target densely and training on it with the teacher.

    The teacher is the network that the round's `labels_from` names, the student as it
    is without one; it labels the target, and in training it stays as it is.

    Attributes:
        selector: which of its predictions become labels; published are all of them.
        inference: how an image is predicted when it is labelled.
        form: the distillation loss: `prob_as_log` as released, which takes
            probabilities for their logarithms, or the divergence `kl`.
    """

    selector: Selector = _SELECTOR
    inference: Inference = _INFERENCE
    form: str = "prob_as_log"

    choices: ClassVar = {"form": ("prob_as_log", "kl")}

    def init(self, state: AdaptState, key: Key) -> AdaptState:
        """Room for the teacher, which every round puts in its place."""
        return state.replace(teacher=jax.tree.map(jnp.copy, state.student))

    def begin_round(
        self, ctx: RoundContext, state: AdaptState
    ) -> tuple[AdaptState, Mapping[str, StreamSpec]]:
        """Puts the teacher in its place, which labels the target where none has."""
        teacher = state.student if ctx.labeller is None else ctx.labeller
        make_labels(
            ctx,
            model=self.model,
            network=teacher,
            selector=self.selector,
            inference=self.inference,
            gamma=self.gamma,
        )
        state = state.replace(teacher=jax.tree.map(jnp.copy, teacher))
        target = self.labelled_crop(functools.partial(ctx.store.read, self.label_maps))
        return state, self.streams(ctx, target)

    def annotate(
        self, state: AdaptState, batch: Batch, key: Key
    ) -> tuple[AdaptState, Targets]:
        """The round's labels, and what the teacher says as it is evaluated."""
        output, _ = forward(
            self.model, state.teacher, batch["target"]["images"], statistics="running"
        )
        targets = given_labels(batch["target"])
        return state, targets.replace(extras={"teacher_logits": output.logits})

    def loss(
        self,
        params: PyTree,
        state: AdaptState,
        batch: Batch,
        targets: Targets,
        key: Key,
    ) -> tuple[Float[Array, ""], LossAux]:
        """Source, then target: its labels, and the teacher's prediction of it."""
        network = ModelState(params, state.student.batch_stats)
        source_key, target_key = jax.random.split(key)
        terms = {}
        if self.use_source:
            terms["source"], network = self.source_loss(
                network, batch["source"], source_key
            )
        images = batch["target"]["images"]
        logits, network = self.logits(network, images, target_key)
        terms["labels"] = self.label_loss(logits, targets.labels)
        terms["distillation"] = distillation_loss(
            logits,
            enlarged(self.model, targets.extras["teacher_logits"], images.shape[1:3]),
            form=self.form,
            axis_name=self.axis_name,
        )
        return self.summed(terms, network, targets)
