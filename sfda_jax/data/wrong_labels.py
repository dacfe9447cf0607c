"""What a file is that was given as a label and holds no class values."""

import numpy as np
from PIL import Image

from sfda_jax.tasks import CLASS_SPACES

_STEP = 4  # of the pixels looked at, along both axes
_INSTANCE_CLASSES = range(24, 34)  # label ids of Cityscapes that are counted one by one


def _packed(rgb: np.ndarray) -> np.ndarray:
    """Colours `[…,3]` as one integer each."""
    red, green, blue = np.moveaxis(rgb.astype(np.int32), -1, 0)
    return red << 16 | green << 8 | blue


def class_colours(image: Image.Image) -> str:
    """The class space whose colours most pixels have; empty where there is none.

    An image of one colour has none: black is a class here and a blank there.
    """
    pixels = _packed(np.asarray(image.convert("RGB"))[::_STEP, ::_STEP])
    shares = {
        name: float(np.isin(pixels, _packed(space.palette)).mean())
        for name, space in CLASS_SPACES.items()
    }
    if np.unique(pixels).size < 2:
        return ""
    best = max(shares, key=lambda name: shares[name])
    return best if shares[best] > 0.5 else ""


def are_instance_ids(values: np.ndarray) -> bool:
    """Whether large values are Cityscapes' instance ids: label id × 1000 + number."""
    return bool(np.isin(values[values > 255] // 1000, _INSTANCE_CLASSES).all())


def are_grey_colours(values: np.ndarray) -> bool:
    """Whether values are the brightness of class colours: a colour label made grey.

    Args:
        values: the distinct values of a label.
    """
    if values.size < 3 or values.max() > 255:
        return False
    for space in CLASS_SPACES.values():
        colours = Image.fromarray(space.palette[None]).convert("L")
        brightness = [*np.asarray(colours).reshape(-1).tolist(), 0]
        if np.isin(values, brightness).all():
            return True
    return False
