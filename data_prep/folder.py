"""Your own images: a folder with `classes.txt`, `train/` and `val/`."""

import pathlib
import zlib

from data_prep.builder import SegmentationBuilder, SegmentationConfig
from data_prep.listing import Listing, by_id, paired, sorted_files, unlabelled
from data_prep.reading import IMAGE_SUFFIXES, fault
from sfda_jax.data.label_maps import read_class_file


class FolderConfig(SegmentationConfig):
    """One user folder, named after its content: an edited one is prepared anew."""

    def __init__(self, *, root: pathlib.Path, **kwargs):
        super().__init__(**kwargs)
        self.root = root


class FolderSegmentation(SegmentationBuilder):
    """Splits `train` (labels optional, all or none) and `val` (labelled).

    `classes.txt` names the classes, see `sfda_jax.data.label_maps.read_class_file`:

        0  road      #804080
        1  building
        2  traffic light
        11 ignore
    """

    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    classes.txt, {train,val}/images/* (PNG or JPEG) and {train,val}/labels/*.png of the
    same names, one channel, pixels = the values in classes.txt. train/labels may be
    absent.
    """
    dataset = "folder"

    @classmethod
    def locate(cls, manual_dir: pathlib.Path | None, variant: str):
        """As in the base class; a variant is a subfolder, for several own datasets."""
        if manual_dir is None:
            raise fault(
                "Dataset 'folder' needs to know your folder: manual_dir is not set.",
                dataset="folder",
                mend="Set manual_dir.",
            )
        root = manual_dir / variant if variant else manual_dir
        read_class_file(_class_file(root))
        space = f"{root.resolve().name}-{_listing_checksum(root):08x}"
        return FolderConfig(space=space, root=root), root

    @classmethod
    def classes(cls, config):
        """Those of the class file."""
        return read_class_file(_class_file(config.root))[0]

    @classmethod
    def label_table(cls, pair, config):
        """That of the class file."""
        return read_class_file(_class_file(config.root))[1]

    @classmethod
    def listing(cls, root, config):
        """Pairs of `images` and `labels`."""
        splits, findings, without = {}, [], []
        for split in ("train", "val"):
            images = _files(root / split / "images")
            if split == "train" and not (root / split / "labels").is_dir():
                splits[split] = unlabelled(images)
                without.append(split)
            else:
                splits[split], alone = paired(images, _files(root / split / "labels"))
                findings += alone
        return Listing(
            splits=splits, findings=tuple(findings), unlabelled=tuple(without)
        )


def _files(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    return by_id(sorted_files(folder, dataset="folder"), dataset="folder")


def _class_file(root: pathlib.Path) -> pathlib.Path:
    """The folder's own class file, or the one that several folders share."""
    own, shared = root / "classes.txt", root.parent / "classes.txt"
    return shared if shared.exists() and not own.exists() else own


def _listing_checksum(root: pathlib.Path) -> int:
    """Changes when a file is added, removed, resized or touched."""
    files = sorted(
        path
        for path in (_class_file(root), *root.glob("*/images/*"))
        if path.name == "classes.txt" or path.suffix.lower() in IMAGE_SUFFIXES
    )
    files += sorted(root.glob("*/labels/*.png"))
    checksum = 0
    for path in files:
        stat = path.stat()
        row = f"{path.relative_to(root.parent)} {stat.st_size} {stat.st_mtime_ns}\n"
        checksum = zlib.crc32(row.encode(), checksum)
    return checksum


Builder = FolderSegmentation
