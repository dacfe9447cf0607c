"""Polyps in colonoscopy: EndoScene and ETIS-Larib, two classes.

Known: the two collections, two classes, masks of 0 and 255 (Stable-ST's medical
scenario). Assumed, as no source of ours states it: the names of the folders, and images
and masks of the same stem in `images/` and `masks/`, as such sets are mostly passed on.
So no counts are known to check, and no official split.
"""

import pathlib

import numpy as np

from data_prep.builder import SegmentationBuilder
from data_prep.listing import Listing, by_id, paired, sorted_files, unlabelled
from data_prep.reading import IMAGE_SUFFIXES, fault, rgb_pixels

_SUFFIXES = (*IMAGE_SUFFIXES, ".tif", ".tiff", ".bmp")
_COLLECTIONS = {
    "endoscene": ("EndoScene", "CVC-EndoSceneStill"),
    "etis": ("ETIS-Larib", "ETIS-LaribPolypDB"),
}
_THRESHOLD = 127  # brighter is polyp: masks saved as JPEG are not quite 0 and 255
_GREY = 32  # more between the channels of a pixel is a colour, not JPEG noise


class PolypSegmentation(SegmentationBuilder):
    """Splits `endoscene` and `etis`, whichever is there, each all of its collection.

    A collection cut into folders has `endoscene_train`, `endoscene_val`,
    `endoscene_test`. A part without `masks/` is unlabelled.
    """

    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    {EndoScene,ETIS-Larib}/images/* and masks/* of the same stems (PNG, JPEG, TIFF or
    BMP), or {train,val,test}/{images,masks} in these folders. Masks are black and
    white.
    """
    dataset = "polyps"
    spaces = ("polyp2",)

    @classmethod
    def listing(cls, root, config):
        """Pairs of `images` and `masks`, of every collection that is there."""
        splits, findings, without = {}, [], []
        for split, folder in _parts(root):
            if split in splits:
                raise fault(
                    f"{folder} is a second folder of split {split!r}.",
                    dataset=cls.dataset,
                    mend="Keep one of the two.",
                )
            images = _files(folder / "images")
            if (folder / "masks").is_dir():
                splits[split], alone = paired(images, _files(folder / "masks"))
                findings += alone
            else:
                splits[split] = unlabelled(images)
                without.append(split)
        if not splits:
            names = ", ".join(name for names in _COLLECTIONS.values() for name in names)
            raise fault(
                f"{root} holds no images/ or {{train,val,test}}/images/ in one of "
                f"{names}.",
                dataset=cls.dataset,
                mend="Name the folders so.",
            )
        return Listing(
            splits=splits, findings=tuple(findings), unlabelled=tuple(without)
        )

    @classmethod
    def label_values(cls, path):
        """0 and 255, whatever the file's mode and compression."""
        pixels = rgb_pixels(path, dataset=cls.dataset)
        brightest = int(pixels.max())
        spread = int((pixels.max(axis=-1) - pixels.min(axis=-1)).max())
        if spread > _GREY or 0 < brightest <= _THRESHOLD:
            found = (
                "colours" if spread > _GREY else f"nothing brighter than {brightest}"
            )
            raise fault(
                f"{path} holds {found}, expected black (background) and white (polyp).",
                dataset=cls.dataset,
                mend="Write masks of 0 and 255.",
                kind="encoding",
            )
        return np.where(pixels[..., 0] > _THRESHOLD, np.uint8(255), np.uint8(0))


def _parts(root: pathlib.Path):
    """(split, folder) of what is there."""
    for collection, names in _COLLECTIONS.items():
        for folder in (root / name for name in names):
            if (folder / "images").is_dir():
                yield collection, folder
            for split in ("train", "val", "test"):
                if (folder / split / "images").is_dir():
                    yield f"{collection}_{split}", folder / split


def _files(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    files = sorted_files(folder, dataset="polyps", suffixes=_SUFFIXES)
    return by_id(files, dataset="polyps")


Builder = PolypSegmentation
