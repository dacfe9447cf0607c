"""How an image becomes class scores for labelling."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
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

_ENLARGE = ("logits", "mean_logits", "class_maps")

Scores = Callable[[PyTree, Shaped[Array, "b h w 3"]], Float[Array, "b H W c"]]
"""`scores(variables, images)`: pure; images as stored, uint8."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inference:
    """How a target image becomes class scores for labelling.

    IAST: `size=(640, 1280), resample="lanczos"`, no flip, labels at the input's size
    (its spec's section 3). CRST: `scale=0.9, resample="opencv", flip=True,
    label_size=(1024, 2048)` (section 3.2). CBST: `size=(1850,), resample="rule",
    flip=True, enlarge="class_maps", label_size=(1024, 2048)` (section 3.1). BiSMAP:
    `size=(1024, 2048), view_sizes=((768, 1536), (1024, 2048), (1536, 3072)),
    flip=True, enlarge="mean_logits"` (section 8).

    Attributes:
        size: (height, width) of the network's input, or its longer side alone; empty
            keeps the stored size.
        scale: factor of the stored size, instead of `size`.
        resample: `bilinear bicubic lanczos` of Pillow, `opencv`'s bilinear, or CBST's
            `rule`: Lanczos if both sides shrink, bicubic if both grow, else bilinear.
        view_sizes: (height, width) that the network's input is resized to, bilinear
            with aligned corners; every one gives a view. Empty is the input alone.
        flip: every view also mirrored.
        enlarge: `logits` are enlarged to the labels' size and then made probabilities,
            the mean of the views; `mean_logits` averages the enlarged logits first;
            `class_maps` makes them at the network's stride and enlarges those with
            Pillow's filters, unclipped: they leave 0..1 and do not sum to 1.
        label_size: (height, width) of the scores; empty is the input's size.
        batch_size: images per forward pass; a multiple of IAST's `instance_size`.
    """

    size: tuple[int, ...] = ()
    scale: float = 1.0
    resample: str = "bilinear"
    view_sizes: tuple[tuple[int, int], ...] = ()
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
        if self.view_sizes and self.enlarge == "class_maps":
            raise ConfigError(
                f"Class maps are of one size, not of view_sizes={self.view_sizes}.",
                hint="Use enlarge='logits' or 'mean_logits', or no view_sizes.",
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
        corners = align_corners(model)

        def scores(variables, images):
            images = network_input(model, images)
            size = images.shape[1:3]
            label_size = self.label_size or size
            logits = [
                self._logits(model, statistics, variables, view, mirrored)
                for view, mirrored in self._views(images)
            ]
            if self.enlarge == "mean_logits":
                mean = mean_logits(logits, label_size, align_corners=corners)
                total = jax.nn.softmax(mean, axis=-1)
            else:
                total = self._mean_probs(logits, label_size, corners)
            if self.enlarge == "class_maps":
                total = class_maps.enlarged(total, size, label_size)
            if prior is not None:
                total = total * _last_axis(prior)
            return total

        return scores

    def _views(
        self, images: Float[Array, "b h w 3"]
    ) -> Iterator[tuple[Float[Array, "b _h _w 3"], bool]]:
        """Every network input, and whether the network sees it mirrored."""
        for size in self.view_sizes or (images.shape[1:3],):
            view = resize_bilinear(images, size, align_corners=True)
            if self.enlarge == "class_maps":
                view = class_maps.padded(view)
            for mirrored in (False, True) if self.flip else (False,):
                yield view, mirrored

    def _mean_probs(self, logits, label_size, corners):
        """Mean of the views' probabilities; of class maps not enlarged yet."""
        total = None
        for view in logits:
            if self.enlarge == "logits":
                view = resize_bilinear(view, label_size, align_corners=corners)
            probs = jax.nn.softmax(view, axis=-1)
            total = probs if total is None else total + probs
        return total / jnp.float32(len(logits))

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


def mean_logits(
    logits: Sequence[Float[Array, "b _h _w c"]],
    size: tuple[int, int],
    *,
    align_corners: bool,
) -> Float[Array, "b h w c"]:
    """Mean over views of logits enlarged to `size`, (height, width).

    Args:
        logits: of every view at any stride, mirrored views turned back.
        size: of the result.
        align_corners: how they are enlarged.
    """
    total = None
    for view in logits:
        view = resize_bilinear(view, size, align_corners=align_corners)
        total = view if total is None else total + view
    return total / jnp.float32(len(logits))


def _last_axis(prior: Float[Array | np.ndarray, "c H W"]) -> Float[Array, "1 H W c"]:
    return jnp.moveaxis(jnp.asarray(prior, jnp.float32), 0, -1)[None]
