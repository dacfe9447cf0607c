"""BDD100K semantic segmentation (10k): driving in the United States, 1280×720."""

import dataclasses
import pathlib

from data_prep.builder import SegmentationBuilder
from data_prep.listing import (
    Finding,
    Listing,
    by_id,
    paired,
    sorted_files,
    unlabelled,
)
from data_prep.reading import fault
from sfda_jax.data.label_maps import LABEL_MAPS

# Images without label, labels without image, of the new packaging; bdd100k issue 103.
_UNPAIRED = (
    *("3d581db5-2564fb7e", "52e3fd10-c205dec2", "781756b0-61e0a182"),
    *("78ac84ba-07bd30c2", "80a9e37d-e4548ac1", "9342e334-33d167eb"),
    *("fee92217-63b3f87f", "ff1e4d6d-f4d85cfd", "ff3d3536-04986e25"),
    *("ff3da814-c3463a43", "ff55861e-a06b953c", "ff7b98c7-3cb964ac"),
)
_TRAIN_ID = "_train_id"  # ends the label names of the old packaging


class Bdd100kSegmentation(SegmentationBuilder):
    """Splits `train` (labels optional), `val`, and `test` where its images are there.

    The new packaging lacks the other file of twelve names: they are left out, as
    findings of kind `defect`. The labels of `test` are withheld.
    """

    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    images/10k/{train,val,test}/*.jpg and labels/sem_seg/masks/{train,val}/*.png; or the
    old packaging, seg/images/{train,val,test}/*.jpg and
    seg/labels/{train,val}/*_train_id.png. From bdd-data.berkeley.edu.
    """
    dataset = "bdd100k"
    spaces = ("cityscapes19", "synthia16", "crosscity13")
    image_sizes = ((720, 1280),)
    label_mend = "Use labels/sem_seg/masks/ (or *_train_id.png), not the colour maps."
    published = {"train": 7000, "val": 1000, "test": 2000}  # noqa: RUF012

    @classmethod
    def listing(cls, root, config):
        """Pairs by stem, from either packaging; the new one where there are both."""
        new, old = root / "images" / "10k", root / "seg" / "images"
        masks = root / "labels" / "sem_seg" / "masks"
        if new.is_dir():
            listing = _listed(new, masks, known=_UNPAIRED)
            notes = (_both(old, new),) if old.is_dir() else ()
            return dataclasses.replace(
                listing,
                findings=notes + listing.findings,
                published={**cls.published, "train": 6996, "val": 998},
            )
        if old.is_dir():
            return _listed(old, root / "seg" / "labels", ending=_TRAIN_ID)
        raise fault(
            f"{root} holds neither images/10k/ nor seg/images/ (old packaging).",
            dataset=cls.dataset,
            mend="Expected one of these two layouts.",
        )

    @classmethod
    def label_table(cls, pair, config):
        """That of the train ids, which is what the masks hold."""
        return LABEL_MAPS["train_ids", config.space]


def _listed(
    images: pathlib.Path,
    labels: pathlib.Path,
    *,
    ending: str = "",
    known: tuple[str, ...] = (),
) -> Listing:
    splits, findings, without = {}, [], []
    for split in ("train", "val", "test"):
        if split == "test" and not (images / split).is_dir():
            continue
        files = _files(images / split)
        if split == "val" or (split == "train" and (labels / split).is_dir()):
            masks = _files(labels / split, ending)
            splits[split], alone = paired(files, masks, known=known)
            findings += alone
        else:
            splits[split] = unlabelled(files)
            without.append(split)
    return Listing(splits=splits, findings=tuple(findings), unlabelled=tuple(without))


def _files(folder: pathlib.Path, ending: str = "") -> dict[str, pathlib.Path]:
    return by_id(
        sorted_files(folder, dataset="bdd100k", pattern=f"*{ending}.*"),
        lambda path: path.stem.removesuffix(ending),
        dataset="bdd100k",
    )


def _both(unread: pathlib.Path, read: pathlib.Path) -> Finding:
    return Finding(
        kind="layout",
        text=f"{unread} is the old packaging of what {read} holds: it is not read.",
    )


Builder = Bdd100kSegmentation
