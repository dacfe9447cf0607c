"""Predictions for a folder of any images, written at each image's own size."""

import functools
import math
import pathlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import PyTree, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from sfda_jax.errors import DataError
from sfda_jax.evaluation.evaluator import network_logits
from sfda_jax.evaluation.predictor import SINGLE, Views, merge_views
from sfda_jax.tasks import ClassSpace
from sfda_jax.types import Transform

SUFFIXES = (
    *(".bmp", ".gif", ".jfif", ".jp2", ".jpeg", ".jpg"),
    *(".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
)
"""File endings taken for images, in any case."""

# Probabilities of larger images are made at this many pixels, their classes enlarged.
_MAX_PIXELS = 8 * 2**20
_OVERLAY_WEIGHT = 0.55
_UNREADABLE = (
    OSError,
    SyntaxError,  # Pillow's word for a broken PNG
    ValueError,
    UnidentifiedImageError,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


def read_rgb(path: pathlib.Path) -> UInt8[np.ndarray, "h w 3"]:
    """An image file as upright 8-bit RGB.

    Palette, grey, CMYK and 16-bit images are converted, transparency is dropped and
    the EXIF rotation applied.

    Raises:
        DataError: the file is no image, or a damaged one.
    """
    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith(("I", "F")):
                image = _eight_bit(np.asarray(image))
            elif image.mode in ("P", "PA", "LA"):
                image = image.convert("RGBA")
            return np.array(image.convert("RGB"))
    except _UNREADABLE as error:
        raise DataError(
            f"Cannot read {path}: {error}.",
            hint="Re-export the image as PNG or JPEG, or remove it.",
        ) from error


def _eight_bit(values: np.ndarray) -> Image.Image:
    """Grey of deep images: 16 bits by range, floats in [0, 1] or [0, 255]."""
    top = 255.0
    if values.dtype.kind == "f":
        top = 1.0 if np.nanmax(values, initial=0.0) <= 1 else 255.0
    elif values.dtype.itemsize > 1:
        top = 65535.0
    grey = np.nan_to_num(values.astype(np.float64)) * (255.0 / top)
    return Image.fromarray(np.clip(np.rint(grey), 0, 255).astype(np.uint8))


def list_images(
    folder: pathlib.Path, *, skip: pathlib.Path | None = None
) -> list[pathlib.Path]:
    """The image files below a folder, sorted; or the one file that was named.

    Args:
        folder: searched with its sub-folders; hidden files are left out.
        skip: a folder below it that is not searched (earlier predictions).

    Raises:
        DataError: nothing there, or nothing that ends like an image.
    """
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise DataError(
            f"No such folder: {folder}.", hint="Give a folder of images, or one image."
        )
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and not (skip and path.is_relative_to(skip))
        and path.is_file()
    )
    if not found:
        raise DataError(
            f"No image in {folder}.",
            hint=f"Expected files ending in {' '.join(SUFFIXES)}.",
        )
    return found


def _output_stems(
    paths: Sequence[pathlib.Path], folder: pathlib.Path
) -> Iterator[pathlib.Path]:
    """Relative path without ending; with it where two images would share the name."""
    root = folder if folder.is_dir() else folder.parent
    relative = [path.relative_to(root) for path in paths]
    taken = Counter(path.with_suffix("") for path in relative)
    for path in relative:
        stem = path.with_suffix("")
        yield stem if taken[stem] == 1 else path


@functools.partial(jax.jit, static_argnames=("size", "views", "input_size"))
def _train_ids(logits, *, size, views, input_size):
    probs = merge_views(logits, size, views, input_size=input_size)
    return jnp.argmax(probs, axis=-1).astype(jnp.uint8)


def _predict_one(
    model: nn.Module,
    variables: PyTree,
    image: UInt8[np.ndarray, "h w 3"],
    *,
    transform: Transform,
    views: Views,
) -> UInt8[np.ndarray, "h w"]:
    height, width = image.shape[:2]
    resized = transform({"image": image}, np.random.default_rng(0))["images"]
    logits = network_logits(model, variables, jnp.asarray(resized)[None], views)
    shrink = min(1.0, math.sqrt(_MAX_PIXELS / (height * width)))
    label_size = (max(1, round(height * shrink)), max(1, round(width * shrink)))
    ids = np.asarray(
        _train_ids(logits, size=label_size, views=views, input_size=resized.shape[:2])
    )
    if label_size == (height, width):
        return ids[0]
    enlarged = Image.fromarray(ids[0]).resize((width, height), Image.Resampling.NEAREST)
    return np.asarray(enlarged)


def _save(
    stem: pathlib.Path, image: np.ndarray, ids: np.ndarray, classes: ClassSpace
) -> None:
    color = classes.palette[ids]
    weight = _OVERLAY_WEIGHT
    overlay = np.rint((1 - weight) * image + weight * color).astype(np.uint8)
    for kind, array in (("trainids", ids), ("color", color), ("overlay", overlay)):
        path = stem.with_name(f"{stem.name}_{kind}.png")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)
        except OSError as error:
            raise DataError(
                f"Cannot write {path}: {error.strerror or error}.",
                hint="Check the output folder's permissions and free space.",
            ) from error


def _unreadable(
    failures: Sequence[str], num_images: int, out: pathlib.Path
) -> DataError:
    return DataError(
        f"{len(failures)} of {num_images} images could not be read; the other "
        f"{num_images - len(failures)} were written to {out}.\n  "
        + "\n  ".join(failures)
        + "\n",
        hint="Re-export those images as PNG or JPEG, or remove them.",
    )


def predict_folder(
    model: nn.Module,
    variables: PyTree,
    folder: pathlib.Path,
    out: pathlib.Path,
    *,
    transform: Transform,
    classes: ClassSpace,
    views: Views = SINGLE,
    on_image: Callable[[int, int], None] | None = None,
) -> int:
    """How many images were written as train ids, colours and overlays.

    Below `out`, at the image's original size: `<stem>_trainids.png` (8-bit grey),
    `<stem>_color.png` and `<stem>_overlay.png`, in the images' own sub-folders.

    Args:
        model: the network.
        variables: its parameters and statistics.
        folder: images of any size and mode, or one image file.
        out: output folder, made if missing.
        transform: gives `images` uint8[h,w,3], the network's input; it is compiled
            for every new size.
        classes: names and palette.
        views: flips and scales averaged, and how.
        on_image: told (images done, images in all), for a progress bar.

    Raises:
        DataError: no image found; nowhere to write; or, after all others were
            written, some images could not be read (all are listed).
    """
    folder, out = pathlib.Path(folder).resolve(), pathlib.Path(out).resolve()
    if out == folder:
        raise DataError(
            f"The output folder is the image folder {folder}.",
            hint="Give another output folder, e.g. a sub-folder of it.",
        )
    paths = list_images(folder, skip=out)
    predict = functools.partial(
        _predict_one,
        model,
        variables,
        transform=transform,
        views=views,
    )
    failures = []
    for done, (path, stem) in enumerate(
        zip(paths, _output_stems(paths, folder), strict=True), start=1
    ):
        try:
            image = read_rgb(path)
        except DataError as error:
            failures.append(error.message)
        else:
            _save(out / stem, image, predict(image), classes)
        if on_image:
            on_image(done, len(paths))
    if failures:
        raise _unreadable(failures, len(paths), out)
    return len(paths)
