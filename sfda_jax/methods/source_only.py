"""Supervised training on the source domain: the model that adaptation starts from."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from sfda_jax.data import transforms
from sfda_jax.data.sampling import MIN_CLASS_PIXELS, rsc_order, temperature_order
from sfda_jax.data.sized_crop import SizedCrop
from sfda_jax.data.torch_order import fixed_order
from sfda_jax.errors import ConfigError
from sfda_jax.losses.cross_entropy import mean_cross_entropy
from sfda_jax.methods.base import MethodBase, RoundContext
from sfda_jax.models.forward import forward, network_input, normalization
from sfda_jax.ops.collectives import batch_places
from sfda_jax.ops.photometric import PhotometricSettings, draw_images, photometric
from sfda_jax.ops.resize import resize_bilinear
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method(MethodBase):
    """Cross-entropy over the labelled pixels; defaults of DT-ST's source models.

    Attributes:
        batch_size: images per step, over all devices.
        size: (height, width) images are resized to before scaling.
        scale_range: factor of that size, drawn uniformly.
        crop_size: (height, width) cut out at random; () trains on the whole image.
        crop_heights: least and greatest height of a crop that is resized to
            `crop_size`: IAST's augmentation, which brings its own mirroring, brightness
            and contrast; `size`, `scale_range`, `flip` and jitter then say nothing.
        flip: mirror half of the images.
        jitter: strengths of brightness, contrast, saturation, hue.
        gray_probability: of losing all colour.
        photometric: where colours change: on the `host` as published, bit for bit, or
            on the `device` within the step, by the operations of `ops.photometric`.
        blur_probability: of a Gaussian blur, on the device only.
        sampling: `uniform`; `rare_class` draws images by their true classes (DT-ST's
            GTA5 model); `temperature` draws a class, then an image (DAFormer);
            `fixed` repeats one order and leaves the incomplete last batch out (IAST).
        min_class_pixels: pixels from which on an image holds a class, at the stored
            size; published are 50 of `rare_class` and 3001 of `temperature`.
        sub_epoch: draws after which `rare_class` counts classes anew.
        temperature: of `temperature`; the smaller, the rarer the classes drawn.
        student_statistics: BatchNorm: `running` (published, frozen) or `batch`.
    """

    batch_size: int = 4
    size: tuple[int, int] = (720, 1280)
    scale_range: tuple[float, float] = (1.0, 1.0)
    crop_size: tuple[int, ...] = ()
    crop_heights: tuple[int, ...] = ()
    flip: bool = False
    jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    gray_probability: float = 0.1
    photometric: str = "host"
    blur_probability: float = 0.0
    sampling: str = "uniform"
    min_class_pixels: int = MIN_CLASS_PIXELS
    sub_epoch: int = 3000
    temperature: float = 0.01
    student_statistics: str = "running"

    adapts: ClassVar[bool] = False
    choices: ClassVar = {
        "student_statistics": ("running", "batch"),
        "photometric": ("host", "device"),
        "sampling": ("uniform", "rare_class", "temperature", "fixed"),
    }

    def __post_init__(self):
        super().__post_init__()
        if self.blur_probability and self.photometric == "host":
            raise ConfigError(
                f"source_only: blur_probability is {self.blur_probability}, but the "
                "host does not blur.",
                hint="Set photometric to device, or blur_probability to 0.",
            )
        if len(self.crop_size) not in (0, 2):
            raise ConfigError(
                f"source_only: crop_size is {self.crop_size}; expected (height, width) "
                "or ()."
            )
        if self.crop_heights and (len(self.crop_heights) != 2 or not self.crop_size):
            raise ConfigError(
                f"source_only: crop_heights is {self.crop_heights} and crop_size is "
                f"{self.crop_size}.",
                hint="Give (least, greatest) and the (height, width) to resize to.",
            )

    @property
    def trains_on_source(self) -> bool:
        """Always."""
        return True

    def begin_round(
        self, ctx: RoundContext, state: AdaptState
    ) -> tuple[AdaptState, Mapping[str, StreamSpec]]:
        """The source stream, its order drawn from the classes where it is asked for."""
        stream = StreamSpec(
            domain="source",
            batch_size=self.batch_size,
            transform=self._transform(),
            order=None if self.sampling == "uniform" else self._order(ctx),
        )
        return state, {"source": stream}

    def _transform(self) -> Transform:
        if self.crop_heights:
            return SizedCrop(size=self.crop_size, heights=self.crop_heights)
        return transforms.SourceTrain(
            size=self.size,
            scale_range=self.scale_range,
            crop=self.crop_size or None,
            flip=self.flip,
            **self._colours() if self.photometric == "host" else {},
        )

    def annotate(
        self, state: AdaptState, batch: Batch, key: Key
    ) -> tuple[AdaptState, Targets]:
        """The source's own labels, and its images where the device changes them."""
        labels = batch["source"]["labels"].astype(jnp.int32)
        kept = (labels != IGNORE).astype(jnp.float32)
        images = None
        if self.photometric == "device":
            images = self._augmented(batch["source"]["images"], key)
        return state, Targets(labels=labels, weights=kept, images=images)

    def _augmented(self, images: Array, key: Key) -> Float[Array, "b h w 3"]:
        """Normalised images in other colours, each by its own decisions."""
        settings = PhotometricSettings(
            jitter_probability=float(any(self.jitter)),
            blur_probability=self.blur_probability,
            **self._colours(),
        )
        places = batch_places(len(images), self.axis_name)
        return photometric(
            network_input(self.model, images),
            draw_images(key, places, settings),
            normalization(self.model),
        )

    def _colours(self) -> dict[str, Any]:
        return {"jitter": self.jitter, "gray_probability": self.gray_probability}

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
            batch["source"]["images"] if targets.images is None else targets.images,
            statistics=self.student_statistics,
            key=key,
        )
        logits = resize_bilinear(
            output.logits,
            targets.labels.shape[1:3],
            align_corners=self.model.align_corners,
        )
        loss = mean_cross_entropy(
            logits, targets.labels, denominator="kept", axis_name=self.axis_name
        )
        return loss, LossAux(metrics={}, batch_stats=stats)

    def _order(self, ctx: RoundContext) -> np.ndarray:
        """Positions of the images to visit."""
        if self.sampling == "fixed":
            return fixed_order(len(ctx.images("source")), self.batch_size)
        pixels = ctx.class_pixels("source")
        num_samples = ctx.num_steps * self.batch_size
        if self.sampling == "temperature":
            return temperature_order(
                pixels.counts,
                ctx.rng,
                num_samples=num_samples,
                temperature=self.temperature,
                min_pixels=self.min_class_pixels,
            )
        return rsc_order(
            pixels.ids,
            pixels.presence(self.min_class_pixels),
            ctx.rng,
            num_samples=num_samples,
            batch_size=self.batch_size,
            sub_epoch=self.sub_epoch,
        )
