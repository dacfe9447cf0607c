"""Files in and out of their encodings: images, labels, name lists."""

import io
import pathlib

import cv2
import numpy as np
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngImageFile

from sfda_jax.data.image_files import FileFault, oddities, open_image, orientation
from sfda_jax.data.wrong_labels import are_instance_ids, class_colours

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


def fault(message: str, *, dataset: str, mend: str, kind: str = "layout") -> FileFault:
    """An error that says what to mend, what finds the like, and the command to run.

    Args:
        message: the file, what was found, what was expected.
        dataset: whose file it is.
        mend: what to do about it.
        kind: groups faults in the report of `check`.
    """
    where = f"{dataset} --data_dir=<folder of the files>"
    return FileFault(
        message,
        kind=kind,
        mend=mend,
        command=f"All such files: python -m sfda_jax.main check --dataset={where}. "
        f"Then run: python -m data_prep {where.replace('data_dir', 'manual_dir')}",
    )


def read_names(path: pathlib.Path) -> list[str]:
    """The lines of a committed name list, blank lines and `#` comments left out."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and line[0] != "#"]


def opened(path: pathlib.Path, *, dataset: str) -> tuple[bytes, Image.Image]:
    """A file's bytes and its decoded image.

    Raises:
        DataError: missing, unreadable, no image, or not whole.
    """
    try:
        return open_image(path)
    except FileFault as error:
        raise fault(
            error.message, dataset=dataset, mend=error.mend, kind=error.kind
        ) from error


def image_bytes(path: pathlib.Path, *, dataset: str) -> tuple[bytes, tuple[int, int]]:
    """The file's own bytes, or an 8-bit RGB PNG of an odd mode, and (height, width).

    Grey, palette, alpha, CMYK, 16-bit and camera-rotated images are re-encoded: the
    reading side takes bytes as they are.

    Raises:
        DataError: missing, truncated or undecodable file.
    """
    data, image = opened(path, dataset=dataset)
    if image.format not in ("PNG", "JPEG") or oddities(data, image):
        image = _rgb(image)
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        data = buffer.getvalue()
    return data, (image.height, image.width)


def _rgb(image: Image.Image) -> Image.Image:
    """The image upright, in eight-bit RGB."""
    if orientation(image) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16-bit grey: PIL would clip, not scale
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image if image.mode == "RGB" else image.convert("RGB")


def rgb_pixels(path: pathlib.Path, *, dataset: str) -> np.ndarray:
    """The pixels `uint8[H,W,3]` of an image file of any mode.

    Raises:
        DataError: missing, truncated or undecodable file.
    """
    return np.asarray(_rgb(opened(path, dataset=dataset)[1]))


def image_size(path: pathlib.Path, *, dataset: str) -> tuple[int, int]:
    """(height, width) from the file's header; its pixels are not decoded.

    Raises:
        DataError: missing, unreadable or no image.
    """
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except (OSError, SyntaxError, ValueError):
        image = opened(path, dataset=dataset)[1]  # says what the file is instead
        return image.height, image.width


def label_values(
    path: pathlib.Path, *, dataset: str, mend: str = "Write class values, not colours."
) -> np.ndarray:
    """The published values `[H,W]` of a grey or palette PNG (palette: the indices).

    Args:
        path: the label file.
        dataset: whose.
        mend: where the right labels are to be had, for the error.

    Raises:
        DataError: missing or truncated; a colour image, a JPEG or instance ids.
    """
    data, image = opened(path, dataset=dataset)
    values = np.asarray(image)
    found = _no_label(image, values)
    if found:
        raise fault(
            f"{path} is {found}, expected a label: a PNG of one channel whose pixels "
            "are class values.",
            dataset=dataset,
            mend="Save labels as PNG." if image.format == "JPEG" else mend,
            kind="encoding",
        )
    if image.mode == "1":
        return values.astype(np.uint8)
    if image.mode == "L" and isinstance(image, PngImageFile) and data[24] < 8:
        return values // (255 // (2 ** data[24] - 1))  # PIL stretches grey to 0–255
    return values


def _no_label(image: Image.Image, values: np.ndarray) -> str:
    """What an image is instead of a label; empty for a label."""
    if image.format == "JPEG":
        return f"a {image.mode} JPEG, whose compression alters class values"
    if image.mode not in ("L", "P", "1", "I", "I;16", "I;16B"):
        space = class_colours(image)
        dressed = f" in the class colours of {space}" if space else ""
        return f"a {image.mode} image{dressed}"
    if values.max() > 255 and are_instance_ids(values):
        return "an image of instance ids (label id × 1000 + number)"
    return ""


def encoded_label(train_ids: np.ndarray) -> io.BytesIO:
    """A single-channel PNG of uint8 train ids `[H,W]`."""
    return io.BytesIO(cv2.imencode(".png", train_ids)[1].tobytes())


def resized_image(
    data: bytes,
    box: tuple[int, int, int, int] | None,
    size: tuple[int, int] | None,
) -> bytes:
    """A PNG of a part of an encoded image, at another size (Pillow's bicubic).

    Args:
        data: an encoded RGB image.
        box: (top, left, height, width), None for all of it.
        size: (height, width) of the result, None for the part's own.
    """
    image = Image.open(io.BytesIO(data))
    if box:
        top, left, height, width = box
        image = image.crop((left, top, left + width, top + height))
    if size:
        image = image.resize(size[::-1], Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def resized_label(
    train_ids: np.ndarray,
    box: tuple[int, int, int, int] | None,
    size: tuple[int, int] | None,
) -> np.ndarray:
    """The same part of a label map `uint8[H,W]`, nearest neighbour (Pillow's)."""
    if box:
        top, left, height, width = box
        train_ids = train_ids[top : top + height, left : left + width]
    if size:
        nearest = Image.Resampling.NEAREST
        train_ids = np.asarray(Image.fromarray(train_ids).resize(size[::-1], nearest))
    return train_ids
