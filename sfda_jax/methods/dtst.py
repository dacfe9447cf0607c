"""DT-ST: dynamic teacher update and training-consistency resampling.

Zhao et al., "Towards Better Stability and Adaptability: Improve Online Self-Training
for Model Adaptation in Semantic Segmentation", CVPR 2023. Defaults are the released
ones for 19 classes; each place where the code departs from the paper follows the code.
"""

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, PyTree

from sfda_jax import student_scores, teachers
from sfda_jax.data import copy_paste, transforms
from sfda_jax.data.strong_augment import AugmentSettings
from sfda_jax.errors import ConfigError
from sfda_jax.losses.cross_entropy import mean_cross_entropy
from sfda_jax.losses.negative_learning import negative_classes, negative_learning
from sfda_jax.methods.base import MethodBase, RoundContext
from sfda_jax.models.forward import forward
from sfda_jax.ops.collectives import gather_batch, local_shard
from sfda_jax.ops.resize import resize_bilinear
from sfda_jax.ops.warp import full_to_weak
from sfda_jax.pseudo_labels import candidates, running_confidence
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

_MIX_CLASSES = {19: copy_paste.MIX_CLASSES_19, 16: copy_paste.MIX_CLASSES_16}
_COMPANIONS = {19: copy_paste.COMPANIONS_19, 16: copy_paste.COMPANIONS_16}
_FIRST_STRIDE, _NEXT_STRIDE = 4, 2  # of stored candidates
_CHOICES = {
    "score": ("soft_nd", "ent"),
    **dict.fromkeys(("student_statistics", "teacher_statistics"), ("running", "batch")),
    "ema_batch_stats": ("leave", "copy", "average"),
    "sampling": ("rare_class", "uniform"),
    "mix_prob": ("uniform", "one_minus_conf"),
    "positive_mean": ("all", "kept"),
    "image_dtype": ("uint8", "float32"),
}


@struct.dataclass
class DtstState:
    """What DT-ST carries from step to step.

    Attributes:
        running_confidence: class prior `[C]`.
        dtu: recent full views and scores; None with a fixed update interval.
    """

    running_confidence: PyTree
    dtu: teachers.DynamicUpdate | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method(MethodBase):
    """DT-ST; the teacher is the network to evaluate. One round per candidate refresh.

    Attributes:
        batch_size: images per step, over all devices.
        full_size: (height, width) of the view the teacher sees.
        crop_size: (height, width) of the student's crop.
        scale: range of the student's random rescaling of the full view.
        jitter: strengths of the student's brightness, contrast, saturation, hue.
        gray_probability: of losing all colour instead.
        cutout_probability: chance of dropping cells of the student's crop.
        cutout_cell: side of a dropped cell, pixels.
        student_gamma: exponents of the student's tone curve; (1, 1) as published.
        paste_scale: range by which pasted objects grow.
        test_size: (height, width) of the input when candidates are made.
        candidate_size: (height, width) at which candidates are compared and counted.
        candidate_portion: share of a class's pixels or images below its threshold.
        mix_classes: classes pasted; None the published of 19 or 16 classes, () none.
        companions: (class, classes pasted with it) pairs; None as above.
        mix_prob: `uniform`, or `one_minus_conf` (paper Eq. 8), set once per round.
        sampling: `rare_class` draws images by the classes predicted in them.
        ema_decay: weight of the teacher's past.
        ema_batch_stats: what the update does to running statistics.
        dynamic: DTU; False updates every `fixed_interval` steps, the first included.
        fixed_interval: steps between updates without DTU.
        score: `soft_nd` (DTU-SND) or `ent` (DTU-E).
        score_pixels: pixels compared by `soft_nd`.
        query_start: first buffer length that re-scores.
        query_step: buffer growth between two re-scorings.
        max_update: longest buffer before the teacher moves anyway.
        threshold_upper: share of the peak confidence a label must reach.
        threshold_beta: scale of the discount of rare classes.
        threshold_floor: lowest threshold.
        positive_weight: factor of the cross-entropy.
        negative_weight: factor of negative learning.
        positive_mean: cross-entropy over `all` pixels or the `kept` ones.
        student_statistics: of the student's BatchNorm, `running` as published, `batch`.
        teacher_statistics: the same of the teacher.
        image_dtype: of the stored full views; `float32` for normalised images.
    """

    batch_size: int = 4
    full_size: tuple[int, int] = (768, 1536)
    crop_size: tuple[int, int] = (512, 1024)
    scale: tuple[float, float] = (0.75, 1.25)
    jitter: tuple[float, float, float, float] = (0.5, 0.5, 0.5, 0.2)
    gray_probability: float = 0.1
    cutout_probability: float = 0.25
    cutout_cell: int = 32
    student_gamma: tuple[float, float] = (1.0, 1.0)
    paste_scale: tuple[float, float] = (1.0, 2.5)
    test_size: tuple[int, int] = (768, 1536)
    candidate_size: tuple[int, int] = (1024, 2048)
    candidate_portion: float = 0.5
    mix_classes: tuple[int, ...] | None = None
    companions: tuple[tuple[int, tuple[int, ...]], ...] | None = None
    mix_prob: str = "uniform"
    sampling: str = "rare_class"
    ema_decay: float = 0.99
    ema_batch_stats: str = "leave"
    dynamic: bool = True
    fixed_interval: int = 12
    score: str = "soft_nd"
    score_pixels: int = 100
    query_start: int = 9
    query_step: int = 3
    max_update: int = 30
    threshold_upper: float = 0.8
    threshold_beta: float = 0.001
    threshold_floor: float = 0.2
    positive_weight: float = 1.0
    negative_weight: float = 0.5
    positive_mean: str = "all"
    student_statistics: str = "running"
    teacher_statistics: str = "running"
    image_dtype: str = "uint8"

    label_maps = "candidates"

    def __post_init__(self):
        for name, known in _CHOICES.items():
            check_choice(f"dtst: {name}", getattr(self, name), known)
        if self.mix_classes is None and self.num_classes not in _MIX_CLASSES:
            raise ConfigError(
                f"dtst: no published mix_classes for {self.num_classes} classes.",
                hint="Set mix_classes (and companions), () to paste nothing.",
            )

    @property
    def num_classes(self) -> int:
        """C, of the task."""
        return self.task.classes.num_classes

    @property
    def rule(self) -> teachers.UpdateRule:
        """When the teacher may move (DTU)."""
        return teachers.UpdateRule(
            start=self.query_start, step=self.query_step, maximum=self.max_update
        )

    def init(self, state: AdaptState, key: Key) -> AdaptState:
        """Copies the teacher from the student; nothing seen, nothing stored yet."""
        dtu = None
        if self.dynamic:
            images = jax.ShapeDtypeStruct(
                (self.batch_size, *self.full_size, 3), self.image_dtype
            )
            probs = jax.eval_shape(self._global_probs, state.student, images)
            count = min(self.score_pixels, probs.shape[0])
            positions = jax.ShapeDtypeStruct((count,), jnp.int32)
            dtu = self.rule.init({"images": images, "positions": positions})
        running = running_confidence.init_running_confidence(
            self.num_classes, self.threshold_beta
        )
        return state.replace(
            teacher=jax.tree.map(jnp.copy, state.student),
            method=DtstState(running_confidence=running, dtu=dtu),
        )

    def begin_round(
        self, ctx: RoundContext, state: AdaptState
    ) -> tuple[AdaptState, Mapping[str, StreamSpec]]:
        """Makes this round's candidates, unless a resumed run has them already."""
        if ctx.store.complete():
            meta = ctx.store.meta
        else:
            found = self._candidates(ctx, state.teacher)
            for name, predicted, kept in found.maps():
                ctx.store.write("predictions", name, predicted)
                ctx.store.write("candidates", name, kept)
            meta = found.summary(self.candidate_size[0] * self.candidate_size[1])
            # Kept, so that a resumed round pastes as it began.
            meta["running_confidence"] = state.method.running_confidence.tolist()
            ctx.store.finish(meta)
        index = candidates.CandidateIndex(meta)
        transform, size, order = self._transform(ctx, index), self.batch_size, None
        if self.sampling == "rare_class":
            order = index.order(ctx.rng, ctx.num_steps * size, batch_size=size)
        return state, {
            "target": StreamSpec(
                domain="target", batch_size=size, transform=transform, order=order
            )
        }

    def annotate(
        self, state: AdaptState, batch: Batch, key: Key
    ) -> tuple[AdaptState, Targets]:
        """Scores the student, then labels its crop with the teacher's full view."""
        batch, memory = batch["target"], state.method
        full = batch["full_images"]
        dtu = memory.dtu
        if dtu is not None:
            dtu = self._store(dtu, state, full, key)
        output, _ = forward(
            self.model, state.teacher, full, statistics=self.teacher_statistics
        )
        logits = resize_bilinear(output.logits, full.shape[1:3], align_corners=True)
        running = running_confidence.update_running_confidence(
            memory.running_confidence,
            jax.nn.softmax(logits),
            beta=self.threshold_beta,
            axis_name=self.axis_name,
        )
        crop = full_to_weak(
            logits,
            rescale_size=batch["rescale_size"],
            crop_origin=batch["crop_origin"],
            flip=batch["flip"],
            crop_size=batch["images"].shape[1:3],
        )
        probs = jax.nn.softmax(crop)
        labels = running_confidence.confident_labels(
            probs,
            running,
            upper=self.threshold_upper,
            lower=self.threshold_floor,
            beta=self.threshold_beta,
        )
        mixed = batch["mix_labels"].astype(jnp.int32)
        labels = jnp.where(mixed != IGNORE, mixed, labels)
        targets = Targets(
            labels=labels,
            weights=(labels != IGNORE).astype(jnp.float32),
            extras={"ruled_out": negative_classes(probs)},
        )
        return state.replace(method=DtstState(running, dtu)), targets

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
        logits = resize_bilinear(output.logits, images.shape[1:3], align_corners=True)
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
            "coverage": self._share(targets.weights.mean()),
        }
        memory = {"running_confidence_min": state.method.running_confidence.min()}
        if state.method.dtu is not None:
            memory |= state.method.dtu.metrics()
        metrics |= {name: self._share(value) for name, value in memory.items()}
        return positive + negative, LossAux(metrics=metrics, batch_stats=stats)

    def after_update(
        self, state: AdaptState, batch: Batch, targets: Targets, key: Key
    ) -> AdaptState:
        """Moves the teacher if the updated student has become better, or is due."""
        memory = state.method
        if memory.dtu is None:
            moves = (state.step - 1) % self.fixed_interval == 0
        else:

            def rescore(inputs):
                images = local_shard(inputs["images"], self.axis_name)
                probs = self._global_probs(state.student, images)
                return student_scores.score(self.score, probs, inputs["positions"])

            dtu = self.rule.decide(memory.dtu, rescore)
            memory, moves = memory.replace(dtu=dtu), dtu.updated
        move = functools.partial(
            teachers.ema, decay=self.ema_decay, batch_stats=self.ema_batch_stats
        )
        teacher = jax.lax.cond(
            moves, move, lambda old, _: old, state.teacher, state.student
        )
        return state.replace(teacher=teacher, method=memory)

    def _global_probs(self, student: ModelState, images: Array) -> Float[Array, "n c"]:
        """The student's softmax on the global batch's full views, a row per pixel."""
        output, _ = forward(
            self.model, student, images, statistics=self.student_statistics
        )
        logits = gather_batch(output.logits, self.axis_name)
        return jax.nn.softmax(logits).reshape(-1, self.num_classes)

    def _store(self, dtu: teachers.DynamicUpdate, state: AdaptState, full, key: Key):
        """The buffer with this batch and the student's score before its update."""
        probs = self._global_probs(state.student, full)
        count = dtu.inputs["positions"].shape[1]
        positions = student_scores.draw_positions(key, probs.shape[0], count)
        images = gather_batch(full, self.axis_name)
        return self.rule.push(
            dtu,
            student_scores.score(self.score, probs, positions),
            {"images": images, "positions": positions},
        )

    def _share(self, value: Array) -> Array:
        """This device's share of a value that devices agree on, or average."""
        devices = 1 if self.axis_name is None else jax.lax.axis_size(self.axis_name)
        return value.astype(jnp.float32) / devices

    def _candidates(
        self, ctx: RoundContext, teacher: ModelState
    ) -> candidates.Candidates:
        """By confidence in the first round, by agreement with the last one after it."""
        first = ctx.previous is None
        predict = candidates.make_predict(
            self.model,
            self.candidate_size,
            stride=_FIRST_STRIDE if first else 1,
            statistics=self.teacher_statistics,
        )
        predictions = ctx.forward(
            predict,
            teacher.variables,
            transform=transforms.Evaluate(size=self.test_size, gamma=self.gamma),
            batch_size=self.batch_size,
        )
        settings = {"num_classes": self.num_classes, "portion": self.candidate_portion}
        if first:
            return candidates.first_candidates(predictions, **settings)
        previous = functools.partial(ctx.previous.read, "predictions")
        return candidates.next_candidates(
            predictions, previous, stride=_NEXT_STRIDE, **settings
        )

    def _transform(
        self, ctx: RoundContext, index: candidates.CandidateIndex
    ) -> transforms.DtstTrain:
        """Both views of a target image, candidates pasted into the student's."""
        classes, companions = self.mix_classes, self.companions
        if classes is None:
            classes = _MIX_CLASSES[self.num_classes]
        if companions is None:
            companions = _COMPANIONS.get(self.num_classes, {})
        probs = None
        if self.mix_prob == "one_minus_conf":
            rarity = 1 - np.array(index.meta["running_confidence"])[list(classes)]
            probs = tuple((rarity / rarity.sum()).tolist())
        return transforms.DtstTrain(
            full_size=self.full_size,
            crop_size=self.crop_size,
            images=ctx.images("target"),
            candidates=functools.partial(ctx.store.read, "candidates"),
            class_files=index.files(classes),
            mix_classes=classes,
            mix_probabilities=probs,
            companions=dict(companions),
            augment=AugmentSettings(
                scale_range=self.scale,
                jitter=self.jitter,
                colour_probability=1 - self.gray_probability,
                cutout_probability=self.cutout_probability,
                cutout_cell=self.cutout_cell,
                gamma=self.student_gamma,
            ),
            gamma=self.gamma,
            paste_scale_min=self.paste_scale[0],
            paste_scale_range=self.paste_scale[1] - self.paste_scale[0],
        )
