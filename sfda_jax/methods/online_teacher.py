"""Online self-training: what DT-ST and SND share.

A teacher labels the student's crop from its own full view and follows the student by
an exponential moving average, at fixed steps or when the student has become better
(DTU); each round makes candidates, whose objects are pasted into the student's crop
(TCR). Zhao et al., CVPR 2023.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int, PyTree

from sfda_jax import student_scores, teachers
from sfda_jax.data import copy_paste, transforms
from sfda_jax.data.strong_augment import AugmentSettings
from sfda_jax.errors import ConfigError
from sfda_jax.methods.base import MethodBase, RoundContext
from sfda_jax.models.forward import enlarged, forward
from sfda_jax.ops.collectives import device_share, gather_batch, local_shard
from sfda_jax.ops.warp import full_to_weak
from sfda_jax.pseudo_labels import candidates, running_confidence
from sfda_jax.types import (
    AdaptState,
    Batch,
    Key,
    Lookup,
    ModelState,
    StreamSpec,
    Targets,
)

_MIX_CLASSES = {19: copy_paste.MIX_CLASSES_19, 16: copy_paste.MIX_CLASSES_16}
_COMPANIONS = {19: copy_paste.COMPANIONS_19, 16: copy_paste.COMPANIONS_16}


@struct.dataclass
class OnlineState:
    """What a method of this kind carries from step to step.

    Attributes:
        running_confidence: class prior `[C]`.
        dtu: recent full views and scores; None with a fixed update interval.
    """

    running_confidence: PyTree
    dtu: PyTree


class TeacherView(NamedTuple):
    """The teacher's view of a batch.

    Attributes:
        features: of the full view, at the network's stride.
        probs: softmax of what the student's crop shows of the full view's logits.
        state: with the class prior and the buffer moved on.
    """

    features: Float[Array, "b h w d"]
    probs: Float[Array, "b H W c"]
    state: AdaptState


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnlineTeacher(MethodBase):
    """The shared part; the teacher is evaluated, a round is one candidate refresh.

    Attributes:
        batch_size: images per step, over all devices.
        full_size: (height, width) of the view the teacher sees.
        crop_size: (height, width) of the student's crop.
        scale: range of the student's random rescaling of the full view.
        jitter: strengths of the student's brightness, contrast, saturation, hue.
        gray_probability: of losing all colour instead.
        cutout_probability: chance of dropping cells of the student's crop.
        cutout_ratio: share of the cells that are then dropped.
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
        score: of a student: `soft_nd` (DTU-SND), `ent` (DTU-E), or the method's own.
        score_pixels: pixels compared by `soft_nd`.
        query_start: first buffer length that re-scores.
        query_step: buffer growth between two re-scorings.
        max_update: longest buffer before the teacher moves anyway.
        threshold_upper: share of the peak confidence a label must reach.
        threshold_beta: scale of the discount of rare classes.
        threshold_floor: lowest threshold.
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
    cutout_ratio: float = 0.25
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
    student_statistics: str = "running"
    teacher_statistics: str = "running"
    image_dtype: str = "uint8"

    label_maps: ClassVar[str] = "candidates"
    choices: ClassVar = {
        "score": ("soft_nd", "ent"),
        "student_statistics": ("running", "batch"),
        "teacher_statistics": ("running", "batch"),
        "ema_batch_stats": ("leave", "copy", "average"),
        "sampling": ("rare_class", "uniform"),
        "mix_prob": ("uniform", "one_minus_conf"),
        "image_dtype": ("uint8", "float32"),
    }

    def __post_init__(self):
        """Checks the choices.

        Raises:
            ConfigError: an unknown word, or classes without a published paste list.
        """
        super().__post_init__()
        if self.mix_classes is None and self.num_classes not in _MIX_CLASSES:
            raise ConfigError(
                f"{self._name}: no published mix_classes for {self.num_classes} "
                "classes.",
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
            scored = jax.eval_shape(self.score_batch, state.student, images, key)
            dtu = self.rule.init(scored[1])
        running = running_confidence.init_running_confidence(
            self.num_classes, self.threshold_beta
        )
        return state.replace(
            teacher=jax.tree.map(jnp.copy, state.student),
            method=OnlineState(running_confidence=running, dtu=dtu),
        )

    def begin_round(
        self, ctx: RoundContext, state: AdaptState
    ) -> tuple[AdaptState, Mapping[str, StreamSpec | Lookup]]:
        """Makes this round's candidates, unless a resumed run has them already."""
        done = ctx.store.complete()
        meta = ctx.store.meta if done else self.make_candidates(ctx, state)
        return state, self.streams(ctx, meta)

    def make_candidates(self, ctx: RoundContext, state: AdaptState) -> dict[str, Any]:
        """Fills the round's store; returns what it remembers."""
        found = candidates.round_candidates(
            ctx,
            self.model,
            state.teacher,
            size=self.candidate_size,
            transform=transforms.Evaluate(size=self.test_size, gamma=self.gamma),
            batch_size=self.batch_size,
            statistics=self.teacher_statistics,
            num_classes=self.num_classes,
            portion=self.candidate_portion,
        )
        for name, predicted, kept in found.maps():
            ctx.store.write("predictions", name, predicted)
            ctx.store.write("candidates", name, kept)
        meta = found.summary(math.prod(self.candidate_size))
        # Kept, so that a resumed round pastes as it began.
        meta["running_confidence"] = state.method.running_confidence.tolist()
        meta |= self.keep_beside(ctx, found)
        ctx.store.finish(meta)
        return meta

    def keep_beside(
        self, ctx: RoundContext, found: candidates.Candidates
    ) -> dict[str, Any]:
        """What else of the candidates a method writes, and remembers."""
        return {}

    def streams(
        self, ctx: RoundContext, meta: Mapping[str, Any]
    ) -> dict[str, StreamSpec | Lookup]:
        """The round's streams, by what its store remembers."""
        index = candidates.CandidateIndex(meta)
        transform, size, order = self._transform(ctx, index), self.batch_size, None
        if self.sampling == "rare_class":
            order = index.order(ctx.rng, ctx.num_steps * size, batch_size=size)
        target = StreamSpec(
            domain="target", batch_size=size, transform=transform, order=order
        )
        return {"target": target}

    def teach(
        self, state: AdaptState, batch: Mapping[str, Array], key: Key
    ) -> TeacherView:
        """Scores the student, then shows the teacher the full views.

        Args:
            state: its prior and its buffer move on.
            batch: of the target, as `transforms.DtstTrain` makes it.
            key: of the score's random draws.
        """
        memory, full = state.method, batch["full_images"]
        dtu = memory.dtu
        if dtu is not None:
            dtu = self.rule.push(dtu, *self.score_batch(state.student, full, key))
        output, _ = forward(
            self.model, state.teacher, full, statistics=self.teacher_statistics
        )
        logits = enlarged(self.model, output.logits, full.shape[1:3])
        running = running_confidence.update_running_confidence(
            memory.running_confidence,
            jax.nn.softmax(logits),
            beta=self.threshold_beta,
            axis_name=self.axis_name,
        )
        crop = self.crop_of(logits, batch)
        state = state.replace(method=OnlineState(running, dtu))
        return TeacherView(output.features, jax.nn.softmax(crop), state)

    def crop_of(
        self, x: Float[Array, "b H W c"], batch: Mapping[str, Array], stride: int = 1
    ) -> Float[Array, "b h w c"]:
        """Maps of the full view, at a stride, as the student's crop shows them."""
        return full_to_weak(
            x,
            rescale_size=batch["rescale_size"],
            crop_origin=batch["crop_origin"],
            flip=batch["flip"],
            crop_size=batch["images"].shape[1:3],
            down_ratio=stride,
        )

    def thresholded(self, view: TeacherView) -> Int[Array, "b H W"]:
        """The teacher's labels of the crop where it is sure enough."""
        return running_confidence.confident_labels(
            view.probs,
            view.state.method.running_confidence,
            upper=self.threshold_upper,
            lower=self.threshold_floor,
            beta=self.threshold_beta,
        )

    def metrics(self, state: AdaptState) -> dict[str, Float[Array, ""]]:
        """This device's share of what the log says of the teacher."""
        memory = {"running_confidence_min": state.method.running_confidence.min()}
        if state.method.dtu is not None:
            memory |= state.method.dtu.metrics()
        return {k: device_share(v, self.axis_name) for k, v in memory.items()}

    def after_update(
        self, state: AdaptState, batch: Batch, targets: Targets, key: Key
    ) -> AdaptState:
        """Moves the teacher if the updated student has become better, or is due."""
        memory = state.method
        if memory.dtu is None:
            moves = (state.step - 1) % self.fixed_interval == 0
        else:
            dtu = self.rule.decide(
                memory.dtu, functools.partial(self.score_again, state.student)
            )
            memory, moves = memory.replace(dtu=dtu), dtu.updated
        move = functools.partial(
            teachers.ema, decay=self.ema_decay, batch_stats=self.ema_batch_stats
        )
        teacher = jax.lax.cond(
            moves, move, lambda old, _: old, state.teacher, state.student
        )
        return state.replace(teacher=teacher, method=memory)

    def score_batch(
        self, student: ModelState, full: Array, key: Key
    ) -> tuple[Float[Array, " p"], dict[str, Array]]:
        """The student's scores on a batch, and what it takes to score it again.

        Args:
            student: before its update.
            full: this shard's full views.
            key: of random draws.
        """
        probs = self._global_probs(student, full)
        count = min(self.score_pixels, probs.shape[0])
        positions = student_scores.draw_positions(key, probs.shape[0], count)
        images = gather_batch(full, self.axis_name)
        scores = student_scores.score(self.score, probs, positions)
        return scores, {"images": images, "positions": positions}

    def score_again(
        self, student: ModelState, inputs: Mapping[str, Array]
    ) -> Float[Array, " p"]:
        """The scores of a stored batch, as `score_batch` makes them."""
        images = local_shard(inputs["images"], self.axis_name)
        probs = self._global_probs(student, images)
        return student_scores.score(self.score, probs, inputs["positions"])

    def _global_probs(self, student: ModelState, images: Array) -> Float[Array, "n c"]:
        """The student's softmax on the global batch's full views, a row per pixel."""
        output, _ = forward(
            self.model, student, images, statistics=self.student_statistics
        )
        logits = gather_batch(output.logits, self.axis_name)
        return jax.nn.softmax(logits).reshape(-1, self.num_classes)

    def pasted(self) -> tuple[tuple[int, ...], dict[int, tuple[int, ...]]]:
        """The classes to paste, and class → classes pasted with it."""
        classes, companions = self.mix_classes, self.companions
        if classes is None:
            classes = _MIX_CLASSES[self.num_classes]
        if companions is None:
            companions = _COMPANIONS.get(self.num_classes, {})
        return classes, dict(companions)

    def _transform(
        self, ctx: RoundContext, index: candidates.CandidateIndex
    ) -> transforms.DtstTrain:
        """Both views of a target image, candidates pasted into the student's."""
        classes, companions = self.pasted()
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
            companions=companions,
            augment=AugmentSettings(
                scale_range=self.scale,
                jitter=self.jitter,
                colour_probability=1 - self.gray_probability,
                cutout_probability=self.cutout_probability,
                cutout_ratio=self.cutout_ratio,
                cutout_cell=self.cutout_cell,
                gamma=self.student_gamma,
            ),
            gamma=self.gamma,
            paste_scale_min=self.paste_scale[0],
            paste_scale_range=self.paste_scale[1] - self.paste_scale[0],
        )
