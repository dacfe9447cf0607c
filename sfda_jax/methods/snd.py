"""SND: stable-neighbour denoising, alone or with a dynamic teacher (Stable-ST).

Zhao et al., "Stable Neighbor Denoising for Source-free Domain Adaptive Segmentation",
CVPR 2024. Each pseudo-label is weighed by whether learning it helps on stable images
that resemble the batch. Defaults are the released ones for GTA5 → Cityscapes, after the
warm-up; each place where the code departs from the paper follows the code.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from sfda_jax import student_scores, teachers
from sfda_jax.data.stable_neighbours import QUERIES, StableNeighbours, stable_styles
from sfda_jax.errors import ConfigError, DataError
from sfda_jax.losses import pixel_weights
from sfda_jax.losses.cross_entropy import mean_cross_entropy
from sfda_jax.methods.base import RoundContext
from sfda_jax.methods.online_teacher import OnlineTeacher
from sfda_jax.models.forward import (
    enlarged,
    forward,
    head_logits,
    network_input,
)
from sfda_jax.ops.collectives import device_share, gather_batch, local_shard
from sfda_jax.ops.color import normalize
from sfda_jax.pseudo_labels import candidates
from sfda_jax.pseudo_labels.services import LabelStore
from sfda_jax.pseudo_labels.stable_sets import stable_sets
from sfda_jax.types import (
    IGNORE,
    AdaptState,
    Batch,
    Key,
    Lookup,
    LossAux,
    ModelState,
    StreamSpec,
    Targets,
)

_MIXUP = "stable_mixup"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method(OnlineTeacher):
    """SND and Stable-ST; the teacher is the network to evaluate.

    Every round keeps its stable sets, the warm-up's too (`meta` off), for itself or
    for a later stage that names it in `sets_from`.

    Attributes:
        meta: METAPL. On: the teacher's most likely classes are the labels, weighed
            pixel by pixel. Off: the sure ones alone, as DT-ST takes them, unweighed.
        inner_rate: of the step that the head takes on trial.
        weight_rate: how far the one step of Adam moves a weight from 1.
        stable_share: of the images are stable (TOP_K).
        stable_portion: share of a class's pixels or images below its meta threshold.
        sets_from: an earlier stage, `stage:NAME`, whose last candidates this one
            begins with, and whose stable sets it keeps; empty: each round makes its
            own.
        neighbour: `overlap` draws stable images by the classes they share with the
            batch, as released; `nearest` compares styles as well, after the paper.
        cutout_probability: as of DT-ST, but off.
        ema_decay: weight of the teacher's past.
        dynamic: DTU; False updates every `fixed_interval` steps, the first included.
        fixed_interval: steps between updates without DTU.
        score: `nfd` (Stable-ST), or one of DT-ST's.
        count: what the three numbers below count where `score` is `nfd`: `images`, as
            released, or `iterations`.
        query_start: first buffer length that re-scores.
        query_step: buffer growth between two re-scorings.
        max_update: longest buffer before the teacher moves anyway.
    """

    meta: bool = True
    inner_rate: float = 0.1
    weight_rate: float = 0.9
    stable_share: float = 0.01
    stable_portion: float = 0.9
    sets_from: str = ""
    neighbour: str = "overlap"
    cutout_probability: float = 0.0
    ema_decay: float = 0.999
    dynamic: bool = False
    fixed_interval: int = 1
    score: str = "nfd"
    count: str = "images"
    query_start: int = 10
    query_step: int = 5
    max_update: int = 21

    choices: ClassVar = {
        **OnlineTeacher.choices,
        "score": ("nfd", *OnlineTeacher.choices["score"]),
        "count": ("images", "iterations"),
        "neighbour": QUERIES,
    }

    def __post_init__(self):
        """Checks the choices.

        Raises:
            ConfigError: an unknown word, or classes without a published paste list.
        """
        super().__post_init__()
        if self.sets_from and not self.sets_from.startswith("stage:"):
            raise ConfigError(
                f"snd: sets_from is {self.sets_from!r}.",
                hint="Expected stage:NAME, an earlier stage of the pipeline, or ''.",
            )

    @property
    def reads_labels_of(self) -> tuple[str, ...]:
        """The stage whose stable sets are kept."""
        return (self.sets_from,) if self.sets_from else ()

    @property
    def rule(self) -> teachers.UpdateRule:
        """When the teacher may move (DTU); NFD gives a score for every image."""
        return dataclasses.replace(
            super().rule,
            count=self.count,
            per_iteration=self.batch_size if self.score == "nfd" else 1,
        )

    def make_candidates(self, ctx: RoundContext, state: AdaptState) -> dict[str, Any]:
        """Fills the round's store; the first time, where it is said, with another's."""
        if not self._keeps_sets(ctx) or ctx.previous is not None:
            return super().make_candidates(ctx, state)
        earlier = self._sets_store(ctx)
        meta = {key: value for key, value in earlier.meta.items() if key != "stable"}
        meta["running_confidence"] = state.method.running_confidence.tolist()
        for name in meta["ids"]:
            for maps in ("predictions", "candidates"):
                ctx.store.write(maps, name, earlier.read(maps, name))
        ctx.store.finish(meta)
        return meta

    def keep_beside(
        self, ctx: RoundContext, found: candidates.Candidates
    ) -> dict[str, Any]:
        """The stable sets, unless an earlier stage's are kept."""
        if self._keeps_sets(ctx):
            return {}
        sets = stable_sets(
            found,
            portion=self.stable_portion,
            # Of a trial's few images a share would be none.
            share=1.0 if ctx.trial else self.stable_share,
        )
        for name, mask in sets.mixup():
            ctx.store.write(_MIXUP, name, mask)
        return {"stable": sets.summary(math.prod(self.candidate_size))}

    def streams(
        self, ctx: RoundContext, meta: Mapping[str, Any]
    ) -> dict[str, StreamSpec | Lookup]:
        """The target, and the stable neighbours that every batch asks for."""
        streams = super().streams(ctx, meta)
        if self.meta:
            store = ctx.store
            if self._keeps_sets(ctx):
                store = self._sets_store(ctx)
                meta = store.meta
            neighbours = self._neighbours(ctx, store, meta["stable"])
            answer = functools.partial(_answer, neighbours)
            streams["stable"] = Lookup(answer=answer)
        return streams

    def annotate(
        self, state: AdaptState, batch: Batch, key: Key
    ) -> tuple[AdaptState, Targets]:
        """Scores the student, labels its crop, asks for stable neighbours."""
        batch = batch["target"]
        view = self.teach(state, batch, key)
        if self.meta:
            labels = view.probs.argmax(axis=-1).astype(jnp.int32)
        else:
            labels = self.thresholded(view)
        mixed = batch["mix_labels"].astype(jnp.int32)
        labels = jnp.where(mixed != IGNORE, mixed, labels)
        targets = Targets(labels=labels, weights=(labels != IGNORE).astype(jnp.float32))
        if self.meta:
            features = self.crop_of(view.features, batch, self.model.stride)
            targets = targets.replace(
                extras={"features": features},
                queries={"stable": self._query(labels, batch["full_images"])},
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
        """Cross-entropy with the merged labels, weighed by what the neighbours say."""
        images = batch["target"]["images"]
        factors, metrics = None, self.metrics(state)
        metrics["coverage"] = device_share(targets.weights.mean(), self.axis_name)
        if self.meta:
            weights, losses = self.pixel_weights(state, batch, targets)
            factors = pixel_weights.loss_weights(weights)
            helpful = (weights > 1).astype(jnp.float32).mean()
            metrics |= {**losses, "helpful": device_share(helpful, self.axis_name)}
        student = ModelState(params, state.student.batch_stats)
        output, stats = forward(
            self.model, student, images, statistics=self.student_statistics, key=key
        )
        loss = mean_cross_entropy(
            enlarged(self.model, output.logits, images.shape[1:3]),
            targets.labels,
            denominator="all",
            weights=factors,
            axis_name=self.axis_name,
        )
        return loss, LossAux(metrics=metrics, batch_stats=stats)

    def pixel_weights(
        self, state: AdaptState, batch: Batch, targets: Targets
    ) -> tuple[Float[Array, "b H W"], dict[str, Float[Array, ""]]]:
        """w of each pixel of the crop, in [0.1, 1.9], and the two losses behind it.

        Args:
            state: the teacher's head takes the step, the student sees the neighbours.
            batch: with the `stable` images and labels.
            targets: as of `annotate`.
        """
        stable = batch["stable"]
        output, _ = forward(
            self.model,
            state.student,
            stable["images"],
            statistics=self.student_statistics,
        )
        found = pixel_weights.weight_gradient(
            lambda head, features: head_logits(self.model, head, features),
            state.teacher.params["head"],
            pixel_weights.LabelledFeatures(targets.extras["features"], targets.labels),
            pixel_weights.LabelledFeatures(
                output.features, stable["labels"].astype(jnp.int32)
            ),
            align_corners=self.model.align_corners,
            inner_rate=self.inner_rate,
            axis_name=self.axis_name,
        )
        pasted = batch["target"]["mix_labels"] != IGNORE
        weights = pixel_weights.adam_weights(
            found.gradient, pasted, rate=self.weight_rate
        )
        losses = {"loss_inner": found.inner_loss, "loss_stable": found.stable_loss}
        return weights, losses

    def score_batch(
        self, student: ModelState, full: Array, key: Key
    ) -> tuple[Float[Array, " p"], dict[str, Array]]:
        """As of `OnlineTeacher`; NFD looks for each image's neighbour in its batch."""
        if self.score != "nfd":
            return super().score_batch(student, full, key)
        output, _ = forward(
            self.model, student, full, statistics=self.student_statistics
        )
        gather = functools.partial(gather_batch, axis_name=self.axis_name)
        probs, inputs = jax.nn.softmax(output.logits), network_input(self.model, full)
        neighbours = student_scores.stable_neighbours(
            gather(student_scores.image_entropy(probs)),
            gather(student_scores.style_vectors(inputs)),
        )
        scores = student_scores.neighbour_density(gather(output.features), neighbours)
        return scores, {"images": gather(full), "neighbours": neighbours}

    def score_again(
        self, student: ModelState, inputs: Mapping[str, Array]
    ) -> Float[Array, " p"]:
        """As of `OnlineTeacher`; neighbours stay what they were."""
        if self.score != "nfd":
            return super().score_again(student, inputs)
        output, _ = forward(
            self.model,
            student,
            local_shard(inputs["images"], self.axis_name),
            statistics=self.student_statistics,
        )
        features = gather_batch(output.features, self.axis_name)
        return student_scores.neighbour_density(features, inputs["neighbours"])

    def _query(self, labels: Array, full: Array) -> dict[str, Array]:
        """What the neighbours are chosen by, of the global batch."""
        present = jax.nn.one_hot(labels, self.num_classes, dtype=bool).any(axis=(1, 2))
        query = {"present": gather_batch(present, self.axis_name)}
        if self.neighbour == "nearest":
            # Normalised as `data.stable_neighbours` does it, whatever the network is.
            styles = student_scores.style_vectors(normalize(full))
            query["styles"] = gather_batch(styles, self.axis_name)
        return query

    def _keeps_sets(self, ctx: RoundContext) -> bool:
        """Whether stable sets are an earlier stage's; a trial has no other stages."""
        return bool(self.sets_from) and not ctx.trial

    def _sets_store(self, ctx: RoundContext) -> LabelStore:
        store = ctx.stage_store(self.sets_from)
        if not store.complete() or "stable" not in store.meta:
            raise DataError(
                f"{self.sets_from!r} left no complete stable sets in this run.",
                hint="Name a stage of the method snd, and keep its label maps.",
            )
        return store

    def _neighbours(
        self, ctx: RoundContext, store: LabelStore, sets: Mapping[str, Any]
    ) -> StableNeighbours:
        """Where the stable neighbours come from, by what a store remembers of them."""
        images, rows = ctx.images("target"), sets["stable"]
        holds = np.zeros((len(rows), self.num_classes), bool)
        for row, entry in zip(holds, rows, strict=True):
            row[entry["classes"]] = True
        styles = None
        if self.neighbour == "nearest":
            positions = [entry["position"] for entry in rows]
            styles = stable_styles(images, positions, self.full_size, gamma=self.gamma)
        classes, companions = self.pasted()
        return StableNeighbours(
            size=self.full_size,
            images=images,
            stable=[(entry["position"], entry["id"]) for entry in rows],
            holds=holds,
            labels=functools.partial(store.read, "candidates"),
            candidates=functools.partial(store.read, _MIXUP),
            class_files=candidates.CandidateIndex(sets).files(classes),
            mix_classes=classes,
            companions=companions,
            neighbour=self.neighbour,
            styles=styles,
            gamma=self.gamma,
        )


def _answer(
    neighbours: StableNeighbours,
    query: Mapping[str, np.ndarray],
    rng: np.random.Generator,
    rows: slice,
) -> dict[str, np.ndarray]:
    """The stable neighbours of some rows of a batch, drawn for all of it."""
    draws = neighbours.draw(query["present"], query.get("styles"), rng)
    mine = dataclasses.replace(
        draws, neighbours=draws.neighbours[rows], seeds=draws.seeds[rows]
    )
    return neighbours.apply(mine)
