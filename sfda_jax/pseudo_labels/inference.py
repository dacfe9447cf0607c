"""How an image becomes class scores for labelling."""

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, PyTree, Shaped

from sfda_jax.data.sized_input import SizedInput
from sfda_jax.errors import ConfigError
from sfda_jax.models.forward import forward, network_input
from sfda_jax.ops.resize import resize_bilinear
from sfda_jax.pseudo_labels import class_maps
from sfda_jax.registry import check_choice
from sfda_jax.types import ModelState, Transform

_ENLARGE = ("logits", "class_maps")

Scores = Callable[[PyTree, Shaped[Array, "b h w 3"]], Float[Array, "b H W c"]]
"""`scores(variables, images)`: pure; images as stored, uint8."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inference:
    """How a target image becomes class scores for labelling.

    IAST: `size=(640, 1280), resample="lanczos"`, no flip, labels at the input's size
    (its spec's section 3). CRST: `scale=0.9, resample="opencv", flip=True,
    label_size=(1024, 2048)` (section 3.2). CBST: `size=(1850,), resample="rule",
    flip=True, enlarge="class_maps", label_size=(1024, 2048)` (section 3.1).

    Attributes:
        size: (height, width) of the network's input, or its longer side alone; empty
            keeps the stored size.
        scale: factor of the stored size, instead of `size`.
        resample: `bilinear bicubic lanczos` of Pillow, `opencv`'s bilinear, or CBST's
            `rule`: Lanczos if both sides shrink, bicubic if both grow, else bilinear.
        flip: mean of the probabilities of the image and of its mirror image.
        enlarge: `logits` are enlarged to the labels' size and then made probabilities;
            `class_maps` makes them at the network's stride and enlarges those with
            Pillow's filters, unclipped: they leave 0..1 and do not sum to 1.
        label_size: (height, width) of the scores; empty is the input's size.
        batch_size: images per forward pass; a multiple of IAST's `instance_size`.
    """

    size: tuple[int, ...] = ()
    scale: float = 1.0
    resample: str = "bilinear"
    flip: bool = False
    enlarge: str = "logits"
    label_size: tuple[int, ...] = ()
    batch_size: int = 1

    def __post_init__(self):
        """Checks the settings.

        Raises:
            ConfigError: settings that contradict each other.
        """
        check_choice("enlarge", self.enlarge, _ENLARGE)
        self.transform()
        if len(self.label_size) not in (0, 2) or self.batch_size < 1:
            raise ConfigError(
                f"Labelling at label_size={self.label_size} in batches of "
                f"{self.batch_size} is not possible.",
                hint="Expected label_size=(height, width) or (), and batch_size >= 1.",
            )

    def transform(self, gamma: float = 1.0) -> Transform:
        """The host side: a record's `images` uint8[h,w,3], at the input's size.

        Args:
            gamma: exponent of a tone curve applied first, 1.0 for none.
        """
        return SizedInput(
            size=self.size, scale=self.scale, resample=self.resample, gamma=gamma
        )

    def make_scores(
        self,
        model: nn.Module,
        *,
        statistics: Literal["running", "batch"] = "running",
        prior: Float[Array | np.ndarray, "c H W"] | None = None,
    ) -> Scores:
        """The device side: pure, to be compiled; scores float32[b,H,W,C].

        Args:
            model: the network that labels.
            statistics: what BatchNorm normalises with; none are changed.
            prior: factor of every class at every pixel of the labels' size, cast to
                float32 and multiplied in last (CBST-SP).
        """
        views = (False, True) if self.flip else (False,)

        def scores(variables, images):
            images = network_input(model, images)
            size = images.shape[1:3]
            label_size = self.label_size or size
            if self.enlarge == "class_maps":
                images = class_maps.padded(images)
            total = None
            for mirrored in views:
                logits = self._logits(model, statistics, variables, images, mirrored)
                if self.enlarge == "logits":
                    logits = resize_bilinear(
                        logits, label_size, align_corners=align_corners(model)
                    )
                probs = jax.nn.softmax(logits, axis=-1)
                total = probs if total is None else total + probs
            total = total / jnp.float32(len(views))
            if self.enlarge == "class_maps":
                total = class_maps.enlarged(total, size, label_size)
            if prior is not None:
                total = total * _last_axis(prior)
            return total

        return scores

    @staticmethod
    def _logits(model, statistics, variables, images, mirrored):
        """Logits at the network's stride, a mirrored view turned back."""
        network = ModelState(
            params=variables["params"], batch_stats=variables.get("batch_stats", {})
        )
        seen = images[:, :, ::-1] if mirrored else images
        output, _ = forward(model, network, seen, statistics=statistics)
        logits = output.logits.astype(jnp.float32)
        return logits[:, :, ::-1] if mirrored else logits


def align_corners(model: nn.Module) -> bool:
    """How the network's publication enlarges logits."""
    return getattr(model, "align_corners", True)


def _last_axis(prior: Float[Array | np.ndarray, "c H W"]) -> Float[Array, "1 H W c"]:
    return jnp.moveaxis(jnp.asarray(prior, jnp.float32), 0, -1)[None]
