"""Adversarial warm-up: predictions of both domains are to look alike (IAST).

Mei et al., "Instance Adaptive Self-Training for Unsupervised Domain Adaptation", ECCV
2020, section 3.2. Defaults are the released ones for GTA5 on one 32 GB GPU.
"""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Float, PyTree

from sfda_jax.data.sized_crop import SizedCrop, sized_streams
from sfda_jax.errors import ConfigError
from sfda_jax.losses.adversarial import adversarial_loss, discriminator_loss
from sfda_jax.losses.cross_entropy import mean_cross_entropy
from sfda_jax.methods.base import MethodBase, RoundContext
from sfda_jax.models import discriminator
from sfda_jax.models.forward import forward
from sfda_jax.ops.collectives import psum
from sfda_jax.ops.resize import resize_bilinear
from sfda_jax.ops.schedules import cosine_restart
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

# Five convolutions of stride 2 leave nothing of a smaller input.
_MIN_CROP = 32
_ADAM = optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-8)


@struct.dataclass
class Discriminator:
    """The discriminator's parameters and its own Adam's moments and step count."""

    params: PyTree
    moments: PyTree


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method(MethodBase):
    """Source cross-entropy and a least-squares game over the output space.

    Both players move at once, on gradients of the same forward passes: source first,
    then target, each normalised by its own statistics.

    Attributes:
        batch_size: images per step of each domain, over all devices.
        crop_size: (height, width) of the network's input.
        source_heights: least and greatest height of a source crop, which has the aspect
            of `crop_size` and is resized to it.
        target_heights: the same of target crops.
        source_weight: of the cross-entropy.
        adversarial_weight: of the adversarial term; 0.001 published for SYNTHIA.
        discriminator_width: channels after the discriminator's first convolution.
        discriminator_rate: its learning rate at the first step.
        discriminator_end_rate: where each half cosine ends; published is a thousandth
            of the segmentation network's rate.
        restart_steps: length of a half cosine, as the optimiser's.
        order: `published`: one fixed order of the images, the incomplete last batch
            left out; `shuffled`: a new order every epoch.
        student_statistics: BatchNorm: of the `batch` (published), `running`.
    """

    batch_size: int = 4
    crop_size: tuple[int, int] = (512, 1024)
    source_heights: tuple[int, int] = (341, 950)
    target_heights: tuple[int, int] = (341, 1000)
    source_weight: float = 1.0
    adversarial_weight: float = 0.05
    discriminator_width: int = 64
    discriminator_rate: float = 2e-5
    discriminator_end_rate: float = 2e-8
    restart_steps: int = 24940
    order: str = "published"
    student_statistics: str = "batch"

    choices: ClassVar = {
        "order": ("published", "shuffled"),
        "student_statistics": ("running", "batch"),
    }

    def __post_init__(self):
        super().__post_init__()
        if min(self.crop_size) < _MIN_CROP:
            raise ConfigError(
                f"warmup_adversarial: crop_size is {self.crop_size}, too small for the "
                "discriminator.",
                hint=f"Give it at least {_MIN_CROP} rows and columns.",
            )

    @property
    def trains_on_source(self) -> bool:
        """Always."""
        return True

    @property
    def discriminator(self) -> discriminator.Model:
        """The network that tells domains apart."""
        return discriminator.Model(
            self.task.classes.num_classes, width=self.discriminator_width
        )

    def init(self, state: AdaptState, key: Key) -> AdaptState:
        """A fresh discriminator."""
        probs = jnp.zeros(
            (1, _MIN_CROP, _MIN_CROP, self.discriminator.num_classes), jnp.float32
        )
        params = jax.jit(self.discriminator.init)(key, probs)["params"]
        return state.replace(method=Discriminator(params, _ADAM.init(params)))

    def begin_round(
        self, ctx: RoundContext, state: AdaptState
    ) -> tuple[AdaptState, Mapping[str, StreamSpec]]:
        """Crops of both domains, the source's with labels."""
        size = self.crop_size
        crops = {
            "source": SizedCrop(size=size, heights=self.source_heights),
            "target": SizedCrop(
                size=size, heights=self.target_heights, gamma=self.gamma
            ),
        }
        streams = sized_streams(
            crops, ctx.images, batch_size=self.batch_size, order=self.order
        )
        return state, streams

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
        """The network's side of the game; the discriminator moves on the way."""
        stats, logits, keys = state.student.batch_stats, {}, jax.random.split(key)
        for domain, domain_key in zip(("source", "target"), keys, strict=True):
            images = batch[domain]["images"]
            output, stats = forward(
                self.model,
                ModelState(params, stats),
                images,
                statistics=self.student_statistics,
                key=domain_key,
            )
            logits[domain] = resize_bilinear(
                output.logits,
                images.shape[1:3],
                align_corners=self.model.align_corners,
            )
        axis = {"axis_name": self.axis_name}
        supervised = self.source_weight * mean_cross_entropy(
            logits["source"], targets.labels, denominator="kept", **axis
        )
        probs = {domain: jax.nn.softmax(x) for domain, x in logits.items()}
        rival = state.method
        adversarial = self.adversarial_weight * adversarial_loss(
            self._scores(rival.params, probs["target"]), **axis
        )
        moved, rival_loss = self._trained(rival, jax.lax.stop_gradient(probs))
        metrics = {
            "loss_source": supervised,
            "loss_adversarial": adversarial,
            "loss_discriminator": rival_loss,
        }
        aux = LossAux(metrics=metrics, batch_stats=stats, method=moved)
        return supervised + adversarial, aux

    def _scores(
        self, params: PyTree, probs: Float[Array, "b h w c"]
    ) -> Float[Array, "b H W 1"]:
        return self.discriminator.apply({"params": params}, probs)

    def _trained(
        self, rival: Discriminator, probs: Mapping[str, Float[Array, "b h w c"]]
    ) -> tuple[Discriminator, Float[Array, ""]]:
        """The discriminator one step later, and this shard's share of its loss."""

        def own_loss(params):
            scores = {d: self._scores(params, probs[d]) for d in ("source", "target")}
            return discriminator_loss(
                scores["source"], scores["target"], axis_name=self.axis_name
            )

        value, gradient = jax.value_and_grad(own_loss)(rival.params)
        gradient = psum(gradient, self.axis_name)
        rate = cosine_restart(
            rival.moments.count,
            base=self.discriminator_rate,
            end=self.discriminator_end_rate,
            restart_steps=self.restart_steps,
        )
        # optax raises a float decay to the integer step count.
        with jax.numpy_dtype_promotion("standard"):
            updates, moments = _ADAM.update(gradient, rival.moments)
        params = jax.tree.map(lambda p, u: p - rate * u, rival.params, updates)
        return Discriminator(params, moments), value
