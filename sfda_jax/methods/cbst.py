"""CBST and CRST: class-balanced self-training, regularised confidence.

Zou et al., "Unsupervised Domain Adaptation for Semantic Segmentation via Class-Balanced
Self-Training", ECCV 2018 (ST, CBST, CBST-SP), and "Confidence Regularized
Self-Training", ICCV 2019 (LRENT, MRKLD, MRL2, MRENT). Defaults are those of the
released CBST; where code and paper differ the code is followed.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, PyTree

from sfda_jax.data.mined_crop import MinedCrop
from sfda_jax.data.scaled_crop import ScaledCrop
from sfda_jax.data.sized_input import input_size
from sfda_jax.data.source_subset import joint_order, source_subset
from sfda_jax.data.statistics import PRIOR_KERNEL
from sfda_jax.errors import ConfigError
from sfda_jax.losses.model_regularizers import confidence_regularised_loss
from sfda_jax.methods.base import MethodBase, RoundContext
from sfda_jax.models.forward import forward, network_input
from sfda_jax.ops.collectives import psum
from sfda_jax.ops.resize import resize_bilinear
from sfda_jax.pseudo_labels import class_balanced, priors, rare_classes
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
    Transform,
)

_SELECTOR = class_balanced.Selector()
_INFERENCE = Inference(
    size=(1850,),
    resample="rule",
    flip=True,
    enlarge="class_maps",
    label_size=(1024, 2048),
)
_STRIDE = 8  # of both published networks


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method(MethodBase):
    """Rounds of labelling the target and training on it, with or without the source.

    Attributes:
        batch_size: images per step, source and target mixed, over all devices.
        selector: which predictions become labels; soft ones are LRENT.
        inference: how an image is predicted when it is labelled.
        source_portion: share of the source images a round trains on; 0 is source-free.
        source_seed: of the draw of these; rounds that share a seed keep what earlier
            ones had. `methods.cbst_rounds` writes out the published policies.
        crop: how samples are cut: as `cbst`, a resized square, or `crst`, a rescaled
            crop.
        crop_size: the square's side `(s,)`; of crst (height, width).
        scale_range: smallest and largest zoom of the crops.
        long_sides: of cbst's crops: long side of source and target images that a zoom
            of 1 refers to, 0 for each image's own.
        mine_probability: of centring a crop on a rare class.
        mine_fraction: classes below this share of the pixels are rare.
        mine_number: that many smallest classes are looked for where no rare class is.
        mine_source: mine on source images too.
        loss_size: where the loss is taken: at the centres of the network's cells
            (`stride`), or at every pixel of the `crop`, from enlarged logits.
        prior: spatial prior of the labels' scores: `none`; `source`, made of the
            source's labels; `predictions`, made of the first round's predictions; or a
            `.mat`, `.npy` or `.npz` file.
        prior_kernel: side of the Gaussian that smooths a prior.
        prior_normalise: a prior sums to 1 over the pixels of a `class`, or `pixel`.
        prior_size: (height, width) that a prior of `predictions` is remembered at.
        regularizer: of the network's output at labelled pixels: `none`, `kld` (MRKLD),
            `l2` (MRL2), `ent` (MRENT).
        regularizer_weight: its weight on target images.
        source_regularizer_weight: the same on source images.
        weight_semantics: `squared` as released: a target weight of 0.1 acts as 0.01;
            `linear` takes it at its word.
        empty_batch: without one labelled pixel: parameters and moments stay
            (`skip_step`), the loss is 0 but weights decay (`zero`, CBST as released),
            or all is lost (`nan`, CRST as released).
        student_statistics: BatchNorm in training: `running` (published), `batch`.
        label_statistics: the same in labelling.
    """

    batch_size: int = 2
    selector: Selector = _SELECTOR
    inference: Inference = _INFERENCE
    source_portion: float = 0.03
    source_seed: int = 0
    crop: str = "cbst"
    crop_size: tuple[int, ...] = (500,)
    scale_range: tuple[float, float] = (0.7, 1.3)
    long_sides: tuple[int, int] = (2048, 2048)
    mine_probability: float = 0.8
    mine_fraction: float = 0.001
    mine_number: int = 3
    mine_source: bool = True
    loss_size: str = "stride"
    prior: str = "none"
    prior_kernel: int = PRIOR_KERNEL
    prior_normalise: str = "class"
    prior_size: tuple[int, int] = (128, 256)
    regularizer: str = "none"
    regularizer_weight: float = 0.0
    source_regularizer_weight: float = 0.0
    weight_semantics: str = "squared"
    empty_batch: str = "skip_step"
    student_statistics: str = "running"
    label_statistics: str = "running"

    choices: ClassVar = {
        "crop": ("cbst", "crst"),
        "loss_size": ("stride", "crop"),
        "prior_normalise": ("class", "pixel"),
        "regularizer": ("none", "kld", "l2", "ent"),
        "weight_semantics": ("squared", "linear"),
        "empty_batch": ("skip_step", "zero", "nan"),
        "student_statistics": ("running", "batch"),
        "label_statistics": ("running", "batch"),
    }

    def __post_init__(self):
        super().__post_init__()
        wanted = 1 if self.crop == "cbst" else 2
        if len(self.crop_size) != wanted:
            raise ConfigError(
                f"cbst: crop_size is {self.crop_size}; crops of {self.crop!r} have "
                + ("one side, (s,)." if wanted == 1 else "(height, width).")
            )

    @property
    def trains_on_source(self) -> bool:
        """With a share of its images, or a prior of its labels."""
        return self.source_portion > 0 or self.prior == "source"

    def init(self, state: AdaptState, key: Key) -> AdaptState:
        """Room for a prior of predictions, where there is one."""
        if self.prior != "predictions":
            return state
        shape = (self.task.classes.num_classes, *self.prior_size)
        return state.replace(method=jnp.zeros(shape, jnp.float32))

    def begin_round(
        self, ctx: RoundContext, state: AdaptState
    ) -> tuple[AdaptState, Mapping[str, StreamSpec]]:
        """Labels the target, unless a resumed run has; mixes it with source images."""
        network = state.student if ctx.labeller is None else ctx.labeller
        if self.prior == "predictions" and not np.any(state.method):
            found = jnp.asarray(self._predicted_prior(ctx, network))
            state = state.replace(method=found)
        meta = make_labels(
            ctx,
            model=self.model,
            network=network,
            selector=self.selector,
            inference=self.inference,
            statistics=self.label_statistics,
            gamma=self.gamma,
            prior=self._prior(ctx, state),
        )
        num_source, subset = 0, np.zeros(0, np.int64)
        if self.source_portion > 0:
            num_source = len(ctx.images("source"))
            subset = source_subset(num_source, self.source_portion, self.source_seed)
        order = joint_order(
            subset,
            ctx.rng,
            num_source=num_source,
            num_target=len(ctx.images("target")),
            num_steps=ctx.num_steps,
            batch_size=self.batch_size,
        )
        stream = StreamSpec(
            domain="both" if self.source_portion > 0 else "target",
            batch_size=self.batch_size,
            transform=self._transform(ctx, meta),
            order=order,
        )
        return state, {"mixed": stream}

    def annotate(
        self, state: AdaptState, batch: Batch, key: Key
    ) -> tuple[AdaptState, Targets]:
        """Labels where the loss is taken, and the regulariser's weights."""
        batch = batch["mixed"]
        labels, soft = batch["labels"].astype(jnp.int32), batch.get("soft_labels")
        size = batch["images"].shape[1:3]
        if self.loss_size == "stride" and labels.shape[1:] == size:
            cells = (slice(None), *(slice(_STRIDE // 2, None, _STRIDE),) * 2)
            labels, soft = labels[cells], None if soft is None else soft[cells]
        weights = jnp.where(
            batch["is_target"],
            jnp.float32(self.regularizer_weight),
            jnp.float32(self.source_regularizer_weight),
        )
        targets = Targets(
            labels=labels,
            weights=(labels != IGNORE).astype(jnp.float32),
            extras={
                "soft": soft,
                "regularizer": weights,
                "is_target": batch["is_target"].astype(jnp.float32),
            },
        )
        return state, targets

    def loss(
        self,
        params: PyTree,
        state: AdaptState,
        batch: Batch,
        targets: Targets,
        key: Key,
    ) -> tuple[Float[Array, ""], LossAux]:
        """Cross-entropy over labelled pixels of both domains, and the regulariser."""
        output, stats = forward(
            self.model,
            ModelState(params, state.student.batch_stats),
            self._images(batch["mixed"]),
            statistics=self.student_statistics,
            key=key,
        )
        logits = resize_bilinear(
            output.logits,
            targets.labels.shape[1:3],
            align_corners=getattr(self.model, "align_corners", True),
        )
        soft = targets.extras["soft"]
        loss, parts = confidence_regularised_loss(
            logits,
            targets.labels if soft is None else soft,
            regularizer=self.regularizer,
            weight=self.regularizer_weight,
            image_weights=targets.extras["regularizer"],
            semantics=self.weight_semantics,
            strict_nan=self.empty_batch == "nan",
            axis_name=self.axis_name,
        )
        kept = targets.weights.mean((1, 2))
        of_target = targets.extras["is_target"]
        num_target = jnp.maximum(psum(of_target.sum(), self.axis_name), 1)
        metrics = {f"loss_{name}": value for name, value in parts.items()}
        metrics["coverage"] = (kept * of_target).sum() / num_target
        empty = psum(kept.sum(), self.axis_name) == 0
        return loss, LossAux(
            metrics=metrics,
            batch_stats=stats,
            skip=empty if self.empty_batch == "skip_step" else None,
        )

    def _images(self, batch: Batch) -> Float[Array, "b h w 3"]:
        """The network's input: normalised, and 0 where an image was padded."""
        images = network_input(self.model, batch["images"])
        if "valid" not in batch:
            return images
        return jnp.where(batch["valid"][..., None], images, 0)

    def _transform(self, ctx: RoundContext, meta: Mapping[str, Any]) -> Transform:
        """Samples of both domains, with what the round found of the target."""
        sizes = meta.get("sizes")
        if sizes is None:  # of a selector that does not count what is predicted
            sizes = np.sum(meta["counts"], axis=0)
        if self.mine_number:
            priority, others = rare_classes.rare_classes(
                sizes, fraction=self.mine_fraction, number=self.mine_number
            )
        else:
            priority, others = (
                rare_classes.classes_below(sizes, self.mine_fraction),
                (),
            )
        soft = None
        if getattr(self.selector, "soft_alpha", 0.0) > 0:
            soft = functools.partial(ctx.store.read_soft, "soft")
        shared = {
            "scale_range": self.scale_range,
            "mine_probability": self.mine_probability,
            "mine_source": self.mine_source,
            "priority": priority,
            "others": others,
            "gamma": self.gamma,
            "pseudo": functools.partial(ctx.store.read, self.label_maps),
            "soft": soft,
            "num_classes": self.task.classes.num_classes,
        }
        if self.crop == "crst":
            return ScaledCrop(size=self.crop_size, **shared)
        return MinedCrop(
            crop_size=self.crop_size[0],
            long_sides=self.long_sides,
            stride=_STRIDE,
            grid=self.loss_size == "stride",
            **shared,
        )

    def _label_size(self, ctx: RoundContext) -> tuple[int, int]:
        """(height, width) of the label maps."""
        how = self.inference
        if how.label_size:
            return how.label_size
        stored = ctx.images("target")[0]["image"].shape[:2]
        return input_size(stored, how.size, how.scale)

    def _prior(
        self, ctx: RoundContext, state: AdaptState
    ) -> Float32[np.ndarray, "c h w"] | None:
        """The prior at the size of the label maps; None where those are there."""
        missing = np.array([not ctx.store.complete()], np.int64)
        if self.prior == "none" or not ctx.total(missing).any():
            return None
        size = self._label_size(ctx)
        if self.prior == "predictions":
            return priors.resize_prior(np.asarray(state.method), size)
        if self.prior != "source":
            num_classes = self.task.classes.num_classes
            return priors.resize_prior(priors.load_prior(self.prior, num_classes), size)
        return priors.prior_of_counts(
            ctx.class_maps("source", size),
            len(ctx.images("source")),
            kernel=self.prior_kernel,
            normalise=self.prior_normalise,
        )

    def _predicted_prior(
        self, ctx: RoundContext, network: ModelState
    ) -> Float32[np.ndarray, "c h w"]:
        """Of where the labelling network sees which class, at `prior_size`."""
        how = self.inference
        scores = how.make_scores(self.model, statistics=self.label_statistics)
        passed = ctx.forward(
            lambda variables, images: scores(variables, images).argmax(-1),
            network.variables,
            transform=how.transform(self.gamma),
            batch_size=how.batch_size,
        )
        counts, num_images = priors.count_predictions(
            (classes for _, classes in passed), self.task.classes.num_classes
        )
        prior = priors.prior_of_counts(
            counts,
            num_images,
            kernel=self.prior_kernel,
            normalise=self.prior_normalise,
        )
        return priors.resize_prior(prior, self.prior_size)
