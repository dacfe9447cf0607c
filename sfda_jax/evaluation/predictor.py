"""Class probabilities of whole images: flips, several scales, windows, a prior."""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, PyTree, Shaped

from sfda_jax.evaluation.windows import Windows, window_logits
from sfda_jax.models.forward import network_input
from sfda_jax.ops.resize import resize_bilinear
from sfda_jax.pseudo_labels import class_maps
from sfda_jax.pseudo_labels.inference import mean_logits
from sfda_jax.registry import check_choice

Predictor = Callable[
    [PyTree, Shaped[Array, "b h w 3"]], Float[Array, "b label_h label_w c"]
]
"""`predict(variables, images)` → probabilities at label size; images as stored."""


AVERAGES = ("probs", "logits", "view_probs", "stride_probs", "class_maps")
"""What `Views.average` may be."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Views:
    """Which views of an image are predicted, and how they become one prediction.

    Attributes:
        scales: factors of the input's size; 1 is the input itself.
        view_sizes: (height, width) of every view, instead of `scales`.
        flip: add the mirrored image at every scale.
        average: what is averaged over the views, at the labels' size. `probs`: softmax
            of the enlarged logits (DT-ST). `logits`: the enlarged logits (CRST's
            multi-scale test). `view_probs`: softmax at the view's own size, enlarged
            (IAST's test). `stride_probs`: softmax at the network's stride, enlarged
            (BiSMAP's validation). `class_maps`: the same of the padded view, enlarged
            with Pillow's filters (CBST).
        align_corners: how logits and probabilities are enlarged; not of class maps.
        windows: cut every view up; its logits are then at the view's size.
    """

    scales: tuple[float, ...] = (1.0,)
    view_sizes: tuple[tuple[int, int], ...] = ()
    flip: bool = False
    average: str = "probs"
    align_corners: bool = True
    windows: Windows | None = None

    def __post_init__(self):
        """Checks the settings.

        Raises:
            ConfigError: an unknown average.
        """
        check_choice("average", self.average, AVERAGES)

    def sizes(self, size: tuple[int, int]) -> list[tuple[int, int]]:
        """(height, width) of the input at each scale, rounded down."""
        if self.view_sizes:
            return list(self.view_sizes)
        return [(int(size[0] * scale), int(size[1] * scale)) for scale in self.scales]


SINGLE = Views()
"""The image as it is."""


def _flip(x: Array) -> Array:
    return x[:, :, ::-1]


def view_logits(
    model: nn.Module,
    variables: PyTree,
    images: Shaped[Array, "b h w 3"],
    views: Views = SINGLE,
) -> tuple[Float[Array, "b _h _w c"], ...]:
    """Logits of every view at network stride, mirrored views turned back.

    Scale after scale, each as it is and then, with `flip`, mirrored. Kept apart from
    `merge_views` so that images of many sizes, resized to one network input, compile
    the network once.

    Args:
        model: the network.
        variables: its parameters and statistics.
        images: RGB, uint8 or already normalised floats.
        views: which; for `class_maps` they are padded.
    """

    def network(view):
        output = model.apply(
            variables, view, deterministic=True, use_running_average=True
        )
        return output.logits.astype(jnp.float32)

    outputs = []
    images = network_input(model, images)
    for size in views.sizes(images.shape[1:3]):
        view = images
        if size != images.shape[1:3]:
            view = resize_bilinear(images, size, align_corners=True)
        if views.average == "class_maps":
            view = class_maps.padded(view)
        for mirrored in (False, True) if views.flip else (False,):
            seen = _flip(view) if mirrored else view
            if views.windows is None:
                logits = network(seen)
            else:
                logits = window_logits(network, seen, views.windows)
            outputs.append(_flip(logits) if mirrored else logits)
    return tuple(outputs)


def merge_views(
    logits: Sequence[Float[Array, "b _h _w c"]],
    label_size: tuple[int, int],
    views: Views = SINGLE,
    *,
    input_size: tuple[int, int] | None = None,
    class_weights: Float[Array | np.ndarray, "c"] | None = None,
) -> Float[Array, "b label_h label_w c"]:
    """The prediction at the label's size, averaged over views as `views` says.

    Probabilities, except that class maps neither stay in 0..1 nor sum to 1.

    Args:
        logits: of the views, from `view_logits`.
        label_size: (H, W) of the result.
        views: which views they are.
        input_size: (height, width) of the images they were seen in; what
            `view_probs` and `class_maps` need to know.
        class_weights: factor per class, for `probs` only. With them the softmax is
            taken at the logits' own size, weighted and then enlarged; it no longer
            sums to 1.

    Raises:
        ValueError: `input_size` missing where it is needed, or weights elsewhere.
    """
    if class_weights is not None and views.average != "probs":
        raise ValueError(f"class_weights do not go with average={views.average!r}")
    if views.average in ("view_probs", "class_maps"):
        if input_size is None:
            raise ValueError(f"average={views.average!r} needs the input_size")
        return _merge_in_views(logits, label_size, views, input_size)
    if views.average == "logits":
        mean = mean_logits(logits, label_size, align_corners=views.align_corners)
        return jax.nn.softmax(mean, axis=-1)
    at_stride = class_weights is not None or views.average == "stride_probs"
    total = None
    for view in logits:
        if at_stride:
            view = jax.nn.softmax(view, axis=-1)
        if class_weights is not None:
            view = view * class_weights[None, None, None, :]
        probs = resize_bilinear(view, label_size, align_corners=views.align_corners)
        if not at_stride:
            probs = jax.nn.softmax(probs, axis=-1)
        total = probs if total is None else total + probs
    return total / jnp.float32(len(logits))


def _merge_in_views(logits, label_size, views, input_size):
    """Mean over scales of probabilities made in the views and then enlarged."""
    per_scale = 2 if views.flip else 1
    total = None
    for index, size in enumerate(views.sizes(input_size)):
        probs = None
        for view in logits[index * per_scale : (index + 1) * per_scale]:
            if views.average == "view_probs":
                view = resize_bilinear(view, size, align_corners=views.align_corners)
            view = jax.nn.softmax(view, axis=-1)
            probs = view if probs is None else probs + view
        probs = probs / jnp.float32(per_scale)
        if views.average == "class_maps":
            probs = class_maps.enlarged(probs, size, label_size)
        else:
            probs = resize_bilinear(
                probs, label_size, align_corners=views.align_corners
            )
        total = probs if total is None else total + probs
    return total / jnp.float32(len(logits) // per_scale)


def make_predictor(
    model: nn.Module,
    *,
    label_size: tuple[int, int],
    views: Views = SINGLE,
    class_weights: Float[Array | np.ndarray, "c"] | None = None,
) -> Predictor:
    """A pure `predict(variables, images) -> probs [B,H,W,C]` on whole images.

    DT-ST's test-time augmentation is `Views(scales=(0.7, 1.0, 1.3), flip=True)`.
    mmsegmentation's networks (ATP, DAFormer, SegFormer) enlarge logits twice, to the
    input's size and then to the label's: that is `windows=Windows()` with
    `align_corners=False`.

    Args:
        model: the network.
        label_size: (H, W) of the probabilities.
        views: of the images, and how they are averaged.
        class_weights: factor per class, see `merge_views` and `class_prior`.
    """

    def predict(variables, images):
        return merge_views(
            view_logits(model, variables, images, views),
            label_size,
            views,
            input_size=images.shape[1:3],
            class_weights=class_weights,
        )

    return predict
