"""Image files as they lie on disk: what they are, and whether they are whole."""

import io
import pathlib
import stat
import zlib

from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile

from sfda_jax.errors import DataError

_ORIENTATION = 0x0112  # the EXIF tag
_AGAIN = "Fetch the file again."
# (how other things begin, what they are, what to do about it)
_IMPOSTORS = (
    (b"version https://git-lfs", "a Git LFS pointer", "Run `git lfs pull` there."),
    (b"/annex/objects/", "a git-annex pointer", "Run `git annex get` there."),
    (b"<!doctype", "a web page", "Download it again, logged in."),
    (b"<html", "a web page", "Download it again, logged in."),
    (b"<?xml", "an XML text, as servers answer with errors", _AGAIN),
    (b"pk\x03\x04", "a ZIP archive", "Extract it."),
    (b"\x1f\x8b", "a gzip archive", "Extract it."),
)
_MODES = {
    "1": "is black and white: copied to three channels of 8 bits",
    "L": "is grey: copied to three channels",
    "P": "has a palette: expanded to RGB",
    "CMYK": "is CMYK: converted to RGB",
}


class FileFault(DataError):
    """A file or folder that cannot be used.

    Attributes:
        kind: a word that groups faults: `missing`, `corrupt`, `encoding`, `size`, …
        mend: what to do about it, without the command to run afterwards.
    """

    def __init__(self, message: str, *, kind: str, mend: str, command: str = ""):
        super().__init__(message, hint=f"{mend} {command}".strip())
        self.kind = kind
        self.mend = mend


def read_file(path: pathlib.Path) -> bytes:
    """The bytes of an image file, which is a plain file and begins like no other thing.

    Raises:
        FileFault: `missing`, `unreadable` (no permission, a folder, a device, a disk
            error) or `no image` (empty, a download's error page, a pointer, …).
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe would wait for ever
            what = "a folder" if path.is_dir() else "no plain file"
            raise FileFault(
                f"{path} is {what}, expected an image file.",
                kind="unreadable",
                mend="Remove it, or put the file there.",
            )
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise _missing(path) from error
    except OSError as error:
        mend = "Check the disk, then fetch the file again."
        if isinstance(error, PermissionError):
            mend = "Allow yourself to read it (chmod u+r)."
        raise FileFault(
            f"{path} cannot be read ({error.strerror}).", kind="unreadable", mend=mend
        ) from error
    found = _impostor(data)
    if found:
        raise FileFault(
            f"{path} is {found[0]}, expected an image.", kind="no image", mend=found[1]
        )
    return data


def _missing(path: pathlib.Path) -> FileFault:
    if path.is_symlink():
        return FileFault(
            f"{path} is a link to {path.readlink()}, which is not there.",
            kind="missing",
            mend="Mount or copy what the link points to.",
        )
    return FileFault(f"{path} not found.", kind="missing", mend="Put the file there.")


def _impostor(data: bytes) -> tuple[str, str] | None:
    """What these bytes are instead of an image, and what to do; None for an image."""
    start = data[:64].lstrip().lower()
    for beginning, what, mend in _IMPOSTORS:
        if start.startswith(beginning):
            return what, mend
    if not data:
        return "empty (0 bytes)", _AGAIN
    if not any(data[:4096]):
        return f"{len(data)} bytes that begin with nothing but zeros", _AGAIN
    return None


def open_image(path: pathlib.Path) -> tuple[bytes, Image.Image]:
    """A file's bytes and its decoded image.

    Raises:
        FileFault: as `read_file`; `corrupt` where it does not decode to its end.
    """
    data = read_file(path)
    try:
        image = Image.open(io.BytesIO(data))
        if isinstance(image, PngImageFile):
            _check_png(data)
        image.load()
    except UnidentifiedImageError as error:
        raise FileFault(
            f"{path} is no image of a known kind: it begins with {data[:8]!r}.",
            kind="no image",
            mend=_AGAIN,
        ) from error
    except Exception as error:  # Pillow's parsers raise whatever they run into
        raise FileFault(
            f"{path} does not decode ({error}), expected a whole PNG or JPEG file; it "
            f"has {len(data)} bytes.",
            kind="corrupt",
            mend=_AGAIN,
        ) from error
    return data, image


def _check_png(data: bytes) -> None:
    """Compares the checksum of every block; Pillow skips those of the pixels."""
    at, name = 8, b""
    while name != b"IEND":
        name = data[at + 4 : at + 8]
        end = at + 12 + int.from_bytes(data[at : at + 4])
        if end > len(data) or len(name) < 4:
            raise ValueError("the file ends too early")
        checksum = zlib.crc32(memoryview(data)[at + 4 : end - 4])
        if checksum != int.from_bytes(data[end - 4 : end]):
            raise ValueError(f"wrong checksum in the block at byte {at}")
        at = end


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 for upright."""
    return image.getexif().get(_ORIENTATION, 1)


def oddities(data: bytes, image: Image.Image) -> tuple[str, ...]:
    """Why an image is not stored as it is, and what is stored instead.

    The reading side takes stored bytes as upright 8-bit RGB; empty for such an image.

    Args:
        data: the file.
        image: its decoded image.
    """
    found = []
    png = isinstance(image, PngImageFile)
    if image.mode[0] in "IF" or (png and data[24] == 16):  # Pillow narrows PNGs
        found.append("has more than 8 bits a channel: reduced to 8")
    if image.mode in _MODES:
        found.append(_MODES[image.mode])
    elif image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        found.append("has an alpha channel: dropped")
    elif image.mode != "RGB" and not found:
        found.append(f"is of mode {image.mode}: converted to RGB")
    if (turned := orientation(image)) != 1:
        found.append(f"has EXIF orientation {turned}: turned upright")
    return tuple(found)
