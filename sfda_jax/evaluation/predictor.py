"""Class probabilities of whole images: flips, several scales, windows, a prior."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, PyTree, Shaped

from sfda_jax.evaluation.windows import Windows, window_logits
from sfda_jax.models.forward import network_input
from sfda_jax.ops.resize import resize_bilinear

Predictor = Callable[
    [PyTree, Shaped[Array, "b h w 3"]], Float[Array, "b label_h label_w c"]
]
"""`predict(variables, images)` → probabilities at label size; images as stored."""


def _flip(x: Array) -> Array:
    return x[:, :, ::-1]


def view_logits(
    model: nn.Module,
    variables: PyTree,
    images: Shaped[Array, "b h w 3"],
    *,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    windows: Windows | None = None,
) -> tuple[Float[Array, "b _h _w c"], ...]:
    """Logits of every view at network stride, mirrored views turned back.

    Kept apart from `merge_views` so that images of many sizes, resized to one network
    input, compile the network once.

    Args:
        model: the network.
        variables: its parameters and statistics.
        images: RGB, uint8 or already normalised floats.
        scales: factors of the input size; 1 is the input itself.
        flip: add the mirrored image at every scale.
        windows: cut every view up; the logits are then at the view's size.
    """

    def network(view):
        output = model.apply(
            variables, view, deterministic=True, use_running_average=True
        )
        return output.logits.astype(jnp.float32)

    outputs = []
    images = network_input(model, images)
    height, width = images.shape[1:3]
    for scale in scales:
        size = (int(height * scale), int(width * scale))
        view = images
        if size != (height, width):
            view = resize_bilinear(images, size, align_corners=True)
        for mirrored in (False, True) if flip else (False,):
            seen = _flip(view) if mirrored else view
            if windows is None:
                logits = network(seen)
            else:
                logits = window_logits(network, seen, windows)
            outputs.append(_flip(logits) if mirrored else logits)
    return tuple(outputs)


def merge_views(
    logits: Sequence[Float[Array, "b _h _w c"]],
    label_size: tuple[int, int],
    *,
    align_corners: bool = True,
    class_weights: Float[Array | np.ndarray, "c"] | None = None,
) -> Float[Array, "b label_h label_w c"]:
    """Mean over views of the softmax of the logits enlarged to the label's size.

    Args:
        logits: of the views.
        label_size: (H, W) of the result.
        align_corners: how logits are enlarged.
        class_weights: factor per class. With them the softmax is taken at the logits'
            own size, weighted and then enlarged; it no longer sums to 1.
    """
    total = None
    for view in logits:
        if class_weights is not None:
            view = jax.nn.softmax(view, axis=-1) * class_weights[None, None, None, :]
        probs = resize_bilinear(view, label_size, align_corners=align_corners)
        if class_weights is None:
            probs = jax.nn.softmax(probs, axis=-1)
        total = probs if total is None else total + probs
    return total / jnp.float32(len(logits))


def make_predictor(
    model: nn.Module,
    *,
    label_size: tuple[int, int],
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    align_corners: bool = True,
    windows: Windows | None = None,
    class_weights: Float[Array | np.ndarray, "c"] | None = None,
) -> Predictor:
    """A pure `predict(variables, images) -> probs [B,H,W,C]` on whole images.

    Flips and scales average softmax probabilities, as DT-ST's test-time augmentation
    does (0.7, 1.0 and 1.3 with flips). mmsegmentation's networks (ATP, DAFormer,
    SegFormer) enlarge logits twice, to the input's size and then to the label's: that
    is `windows=Windows()` with `align_corners=False`.

    Args:
        model: the network.
        label_size: (H, W) of the probabilities.
        scales: factors of the input size, enlarged with `align_corners=True`.
        flip: average with the mirrored image.
        align_corners: how logits are enlarged to `label_size`.
        windows: cut the input up, or enlarge its logits to its size first.
        class_weights: factor per class, see `merge_views` and `class_prior`.
    """

    def predict(variables, images):
        logits = view_logits(
            model, variables, images, scales=scales, flip=flip, windows=windows
        )
        return merge_views(
            logits,
            label_size,
            align_corners=align_corners,
            class_weights=class_weights,
        )

    return predict
