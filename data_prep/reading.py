"""What every builder shares: listing, decode checks, encoding, dataset information."""

import io
import pathlib
from collections.abc import Iterator

import cv2
import numpy as np
import tensorflow_datasets as tfds
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngImageFile

from sfda_jax.data.label_maps import apply_label_map
from sfda_jax.errors import DataError
from sfda_jax.tasks import ClassSpace
from sfda_jax.types import IGNORE

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


class SegmentationBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Base of our builders: image bytes as published, labels as PNGs of train ids.

    A subclass sets `dataset` (its registry name) and `MANUAL_DOWNLOAD_INSTRUCTIONS`
    (the layout that it reads), and yields `example(...)` in file order.
    """

    VERSION = tfds.core.Version("1.0.0")
    code_path = (
        None  # else TFDS looks for download checksums with an undeclared package
    )
    dataset: str
    reads_files = True

    @classmethod
    def locate(
        cls, manual_dir: pathlib.Path | None, variant: str
    ) -> tuple[tfds.core.BuilderConfig | str | None, pathlib.Path | None]:
        """The builder configuration of a variant, and the folder that it reads.

        A folder that holds a subfolder of the dataset's name stands for that subfolder,
        so one `manual_dir` serves all datasets.
        """
        if variant and variant not in cls.builder_configs:
            known = ", ".join(cls.builder_configs) or "none"
            raise DataError(
                f"Dataset {cls.dataset!r} has no variant {variant!r}.",
                hint=f"Known variants: {known}.",
            )
        if manual_dir is not None and (manual_dir / cls.dataset).is_dir():
            manual_dir = manual_dir / cls.dataset
        return variant or None, manual_dir

    def _generate_examples(self, pairs, table) -> Iterator[tuple[str, dict]]:
        """Examples of (image, label or None) paths whose labels one table maps."""
        for path, label_path in pairs:
            train_ids = None
            if label_path is not None:
                values = label_values(label_path, dataset=self.dataset)
                train_ids = apply_label_map(
                    values, table, path=label_path, dataset=self.dataset
                )
            yield example(path, train_ids, dataset=self.dataset, label_path=label_path)

    def _dataset_info(self, classes: ClassSpace) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.MANUAL_DOWNLOAD_INSTRUCTIONS,
            disable_shuffling=True,  # file order; streams shuffle
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3)),
                    "label": tfds.features.Image(shape=(None, None, 1)),
                    "id": tfds.features.Text(),
                }
            ),
            metadata=tfds.core.MetadataDict(
                classes={
                    "name": classes.name,
                    "names": list(classes.names),
                    "palette": classes.palette.tolist(),
                    "subsets": {k: list(v) for k, v in classes.subsets.items()},
                },
                unlabelled_splits=[],
            ),
        )


def fault(message: str, *, dataset: str, mend: str) -> DataError:
    """A `DataError` that ends with what to mend and the command to run then."""
    return DataError(
        message,
        hint=f"{mend} Then run: python -m data_prep {dataset} "
        "--manual_dir=<folder of the files>",
    )


def list_images(
    folder: pathlib.Path, *, dataset: str, pattern: str = "*"
) -> list[pathlib.Path]:
    """Image files of a folder that match a glob pattern, sorted by relative path.

    Raises:
        DataError: missing folder, no image in it, two files of one stem.
    """
    if not folder.is_dir():
        raise fault(
            f"{folder} not found: no such folder.",
            dataset=dataset,
            mend=f"Expected the layout of {dataset!r}, see data_prep/{dataset}.py.",
        )
    files = sorted(
        path
        for path in folder.glob(pattern)
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    )
    if not files:
        raise fault(
            f"{folder} holds no image ({pattern}, {'/'.join(IMAGE_SUFFIXES)}).",
            dataset=dataset,
            mend="Put the images there.",
        )
    seen: dict[str, pathlib.Path] = {}
    for path in files:
        if path.stem in seen:
            raise fault(
                f"{seen[path.stem]} and {path} share the id {path.stem!r}, expected "
                "one file an id.",
                dataset=dataset,
                mend="Remove or rename one of the two.",
            )
        seen[path.stem] = path
    return files


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


def example(
    path: pathlib.Path, train_ids: np.ndarray | None, *, dataset: str, label_path=None
) -> tuple[str, dict]:
    """(id, features) of one image and its train ids; None stands for an unlabelled one.

    Raises:
        DataError: the image does not decode, or the label has another size.
    """
    data, size = image_bytes(path, dataset=dataset)
    if train_ids is None:
        train_ids = np.full(size, IGNORE, np.uint8)
    if train_ids.shape != size:
        raise fault(
            f"{label_path} is {train_ids.shape[1]}×{train_ids.shape[0]}, expected "
            f"{size[1]}×{size[0]} like its image {path}.",
            dataset=dataset,
            mend="Replace or remove the pair.",
        )
    features = {
        "image": io.BytesIO(data),
        "label": encoded_label(train_ids),
        "id": path.stem,
    }
    return path.stem, features
