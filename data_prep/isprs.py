"""ISPRS 2D semantic labelling: aerial images of Potsdam and Vaihingen, six classes.

Known: two towns, six classes and their colours, folders `{train,val}_{images,gt}`
(Stable-ST's scenario). Assumed, as no source of ours states it: the file names in the
publisher's archives. Bands, tiling and clutter differ between papers and are settings
here: splits name the bands, variants the tiles, and `mIoU5` leaves clutter out. The
participants' lists of images for training and test are not stated either, so a split is
all labelled images.
"""

import functools
import io
import pathlib
import re

import cv2
import numpy as np

from data_prep.builder import SegmentationBuilder, SegmentationConfig, check_sizes
from data_prep.listing import Listing, by_id, paired, sorted_files, unlabelled
from data_prep.reading import (
    IMAGE_SUFFIXES,
    encoded_label,
    fault,
    resized_image,
    resized_label,
    rgb_pixels,
)
from data_prep.tiling import Decoded, tiles
from sfda_jax.tasks import class_space
from sfda_jax.types import IGNORE

_SUFFIXES = (*IMAGE_SUFFIXES, ".tif", ".tiff")
_TILE = 512
_ROWS = 512  # of a label, looked up at a time: bounds the memory
_BORDER = (0, 0, 0)  # between the objects of an eroded label; ignored
_ENDINGS = re.compile(r"(_label)?(_noBoundary)?$|_(RGB|IRRG)$")
# split → (town, images, labels): names in the publisher's archives
_PUBLISHED = {
    "potsdam_rgb": ("Potsdam", "top_potsdam_*_RGB.tif", "top_potsdam_*_label*.tif"),
    "potsdam_irrg": ("Potsdam", "top_potsdam_*_IRRG.tif", "top_potsdam_*_label*.tif"),
    "vaihingen_irrg": ("Vaihingen", "top_mosaic_*.tif", "top_mosaic_*.tif"),
}
_DECODED = Decoded()


class IsprsSegmentation(SegmentationBuilder):
    """Splits `potsdam_rgb`, `potsdam_irrg`, `vaihingen_irrg`: all labelled images.

    Folders `{train,val}_{images,gt}` of a town make `potsdam_train`, `potsdam_val`, …
    instead. Images are cut into tiles of 512×512, the last ones moved inwards; an
    example's id is `<image>_<top>_<left>`. Variants: `tile256`, `tile1024-stride512`,
    `eroded` (labels without the borders of objects). A thread that prepares Potsdam's
    6000×6000 images takes 0.55 GB.
    """

    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    Potsdam/ with 2_Ortho_RGB/top_potsdam_*_RGB.tif, 3_Ortho_IRRG/*_IRRG.tif and
    5_Labels_all/*_label.tif (eroded: *_label_noBoundary.tif); Vaihingen/ with
    top/top_mosaic_*.tif and the label files in another folder (eroded:
    *_noBoundary.tif). Or {train,val}_{images,gt}/ in these folders. Labels are colours.
    """
    dataset = "isprs"
    spaces = ("isprs6",)
    options = ("eroded",)
    numbers = ("tile", "stride")

    @classmethod
    def listing(cls, root, config):
        """The tiles of every town and band that is there; reads the images' headers."""
        tile, stride = _tiling(config)
        splits, findings, without = {}, [], []
        for split, images, labels in _parts(root, eroded="eroded" in config.options):
            if labels:
                pairs, alone = paired(images, labels)
                findings += alone
            else:
                pairs = unlabelled(images)
                without.append(split)
            cut = tiles(pairs, tile=tile, stride=stride, dataset=cls.dataset)
            splits[split] = tuple(cut)
        if not splits:
            raise fault(
                f"{root} holds no images of Potsdam or Vaihingen.",
                dataset=cls.dataset,
                mend="Expected Potsdam/ and Vaihingen/, see data_prep/isprs.py.",
            )
        return Listing(
            splits=splits, findings=tuple(findings), unlabelled=tuple(without)
        )

    @classmethod
    def label_values(cls, path):
        """Index of the colour among the classes, 6 for the borders of eroded labels."""
        pixels = rgb_pixels(path, dataset=cls.dataset)
        blocks = (pixels[top : top + _ROWS] for top in range(0, len(pixels), _ROWS))
        return np.concatenate([_class_values(block, path) for block in blocks])

    @classmethod
    def train_ids(cls, pair, config):
        """As in the base class, decoded once for the tiles of an image."""
        if pair.label is None:
            return None
        decode = functools.partial(super().train_ids, pair, config)
        return _DECODED.get("label", pair.label, decode)

    @classmethod
    def encode(cls, pair, config):
        """As in the base class, decoded once for the tiles of an image."""
        if pair.box is None:
            return super().encode(pair, config)
        decode = functools.partial(rgb_pixels, pair.image, dataset=cls.dataset)
        pixels = _DECODED.get("image", pair.image, decode)
        train_ids = cls.train_ids(pair, config)
        if train_ids is None:
            train_ids = np.full(pixels.shape[:2], IGNORE, np.uint8)
        check_sizes(pair, train_ids.shape, pixels.shape[:2], dataset=cls.dataset)
        top, left, height, width = pair.box
        tile = pixels[top : top + height, left : left + width]
        data = cv2.imencode(".png", tile[..., ::-1])[1].tobytes()
        if config.size:
            data = resized_image(data, None, config.size)
        train_ids = resized_label(train_ids, pair.box, config.size)
        return {
            "image": io.BytesIO(data),
            "label": encoded_label(train_ids),
            "id": pair.id,
        }


def _tiling(config: SegmentationConfig) -> tuple[int, int]:
    """Size and stride of the tiles of a variant."""
    numbers = {"tile": _TILE}
    for option in config.options:
        if match := re.fullmatch(r"(tile|stride)(\d+)", option):
            numbers[match[1]] = int(match[2])
    tile, stride = numbers["tile"], numbers.get("stride", numbers["tile"])
    if not 1 <= stride <= tile:
        raise fault(
            f"Variant {config.name!r} has tiles of {tile} at a stride of {stride}.",
            dataset="isprs",
            mend="Expected 1 ≤ stride ≤ tile.",
        )
    return tile, stride


def _parts(root: pathlib.Path, *, eroded: bool):
    """(split, images, labels) by image name of what is there; no labels: unlabelled."""
    for town in ("Potsdam", "Vaihingen"):
        place = root / town if (root / town).is_dir() else root
        own = place.name.lower() == town.lower()
        cut = [s for s in ("train", "val") if own and (place / f"{s}_images").is_dir()]
        for split in cut:
            labels = place / f"{split}_gt"
            needed = split == "val" or labels.is_dir()
            images = _folder(place / f"{split}_images")
            yield f"{town.lower()}_{split}", images, _folder(labels) if needed else {}
        for split, (of, images, labels) in _PUBLISHED.items():
            found = {} if cut or of != town else _images(place, images)
            if found:
                yield split, found, _labels(place, labels, eroded=eroded)


def _folder(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    files = sorted_files(folder, dataset="isprs", suffixes=_SUFFIXES)
    return by_id(files, _name, dataset="isprs")


def _name(path: pathlib.Path) -> str:
    """`top_potsdam_2_10` of an image or a label file."""
    return _ENDINGS.sub("", path.stem)


def _published(place: pathlib.Path, pattern: str) -> list[pathlib.Path]:
    """Files in a town's folder or in the folders there."""
    return [*sorted(place.glob(pattern)), *sorted(place.glob(f"*/{pattern}"))]


def _images(place: pathlib.Path, pattern: str) -> dict[str, pathlib.Path]:
    files = _published(place, pattern)
    if pattern == _PUBLISHED["vaihingen_irrg"][1]:  # its labels are named alike
        files = [file for file in files if file.parent.name == "top"]
    return by_id(files, _name, dataset="isprs")


def _labels(
    place: pathlib.Path, pattern: str, *, eroded: bool
) -> dict[str, pathlib.Path]:
    """Image name → label; the participants' files stand back behind the complete ones.

    Raises:
        DataError: no eroded labels where they are asked for.
    """
    files = [
        file
        for file in _published(place, pattern)
        if ("_noBoundary" in file.name) == eroded and file.parent.name != "top"
    ]
    if eroded and not files:
        raise fault(
            f"{place} holds no {pattern} that ends with _noBoundary.",
            dataset="isprs",
            mend="Extract the eroded labels, or leave `eroded` out of the variant.",
        )
    found = {}
    for partial in (True, False):
        some = [f for f in files if ("participants" in f.parent.name) == partial]
        found |= by_id(some, _name, dataset="isprs")
    return found


def _class_values(pixels: np.ndarray, path: pathlib.Path) -> np.ndarray:
    """Class indices `uint8[H,W]` of label colours `uint8[H,W,3]`."""
    classes = class_space("isprs6")
    palette = [tuple(colour) for colour in classes.palette.tolist()]
    red, green, blue = np.moveaxis(pixels.astype(np.uint32), -1, 0)
    codes = red << 16 | green << 8 | blue
    values = np.full(codes.shape, IGNORE, np.uint8)
    for value, (r, g, b) in enumerate([*palette, _BORDER]):
        values[codes == (r << 16 | g << 8 | b)] = value
    strange = pixels[values == IGNORE]
    if len(strange):
        known = zip(classes.names, palette, strict=True)
        raise fault(
            f"{path} holds the colour {tuple(strange[0].tolist())}, expected "
            f"{', '.join(f'{name} {colour}' for name, colour in known)}.",
            dataset="isprs",
            mend="Give such pixels the colour of a class, or black to ignore them.",
            kind="value",
        )
    return values


Builder = IsprsSegmentation
