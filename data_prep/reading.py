"""Files in and out of their encodings: images, labels, name lists."""

import io
import pathlib

import cv2
import numpy as np
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngImageFile

from sfda_jax.errors import DataError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


def fault(message: str, *, dataset: str, mend: str) -> DataError:
    """A `DataError` that ends with what to mend and the command to run then."""
    return DataError(
        message,
        hint=f"{mend} Then run: python -m data_prep {dataset} "
        "--manual_dir=<folder of the files>",
    )


def read_names(path: pathlib.Path) -> list[str]:
    """The lines of a committed name list, blank lines and `#` comments left out."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and line[0] != "#"]


def _open(path: pathlib.Path, *, dataset: str) -> tuple[bytes, Image.Image]:
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise fault(
            f"{path} not found.", dataset=dataset, mend="Put the file there."
        ) from error
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except (OSError, SyntaxError, ValueError) as error:
        raise fault(
            f"{path} does not decode ({error}), expected a whole PNG or JPEG file of "
            f"more than {len(data)} bytes.",
            dataset=dataset,
            mend="Fetch the file again.",
        ) from error
    return data, image


def image_bytes(path: pathlib.Path, *, dataset: str) -> tuple[bytes, tuple[int, int]]:
    """The file's own bytes, or an 8-bit RGB PNG of an odd mode, and (height, width).

    Grey, palette, alpha, CMYK, 16-bit and camera-rotated images are re-encoded: the
    reading side takes bytes as they are.

    Raises:
        DataError: missing, truncated or undecodable file.
    """
    data, image = _open(path, dataset=dataset)
    rotated = image.getexif().get(0x0112, 1) != 1
    plain = image.mode == "RGB" and "transparency" not in image.info and not rotated
    if isinstance(image, PngImageFile):
        plain = plain and data[24] == 8  # bit depth; PIL narrows 16 bits silently
    elif image.format != "JPEG":
        plain = False
    if not plain:
        rgb = ImageOps.exif_transpose(image)
        if rgb.mode.startswith("I"):  # 16-bit grey: PIL would clip, not scale
            rgb = Image.fromarray((np.asarray(rgb) >> 8).astype(np.uint8))
        image = rgb.convert("RGB")
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        data = buffer.getvalue()
    return data, (image.height, image.width)


def label_values(path: pathlib.Path, *, dataset: str) -> np.ndarray:
    """The published values `[H,W]` of a grey or palette PNG (palette: the indices).

    Raises:
        DataError: missing, truncated, or colour file.
    """
    data, image = _open(path, dataset=dataset)
    if image.mode not in ("L", "P", "1", "I", "I;16", "I;16B"):
        raise fault(
            f"{path} is a {image.mode} image, expected a label: a PNG of one channel "
            "whose pixels are class values.",
            dataset=dataset,
            mend="Write class values, not colours.",
        )
    values = np.asarray(image)
    if image.mode == "1":
        return values.astype(np.uint8)
    if image.mode == "L" and isinstance(image, PngImageFile) and data[24] < 8:
        return values // (255 // (2 ** data[24] - 1))  # PIL stretches grey to 0–255
    return values


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
