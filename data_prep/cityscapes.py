"""Cityscapes: 2975 training and 500 validation frames of German cities, 2048×1024."""

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

_IMAGE = "_leftImg8bit"
_TRAIN_CITIES = {
    **{"aachen": 174, "bochum": 96, "bremen": 316, "cologne": 154, "darmstadt": 85},
    **{"dusseldorf": 221, "erfurt": 109, "hamburg": 248, "hanover": 196, "jena": 119},
    **{"krefeld": 99, "monchengladbach": 94, "strasbourg": 365, "stuttgart": 196},
    **{"tubingen": 144, "ulm": 95, "weimar": 142, "zurich": 122},
}
_VAL_CITIES = {"frankfurt": 267, "lindau": 59, "munster": 174}
_LABEL_IDS, _TRAIN_IDS = "_gtFine_labelIds", "_gtFine_labelTrainIds"


class CityscapesSegmentation(SegmentationBuilder):
    """Splits `train` (labels optional), `val`, and `test` where its images are there.

    Frames stand in the order of relative paths. The published labels of `test` are
    dummies, so it has none here.
    """

    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    leftImg8bit/{train,val,test}/<city>/*_leftImg8bit.png and
    gtFine/{train,val}/<city>/*_gtFine_labelIds.png (or _labelTrainIds.png) from
    cityscapes-dataset.com. gtFine/train and leftImg8bit/test may be absent.
    """
    dataset = "cityscapes"
    spaces = ("cityscapes19", "synthia16", "crosscity13")
    published = {"train": 2975, "val": 500, "test": 1525}  # noqa: RUF012
    groups = {"train": _TRAIN_CITIES, "val": _VAL_CITIES}  # noqa: RUF012
    image_sizes = ((1024, 2048),)
    label_mend = (
        "Use *_gtFine_labelIds.png as published, not the *_color.png or "
        "*_instanceIds.png beside it."
    )

    @classmethod
    def listing(cls, root, config):
        """Frames by city; the label ids where there are both kinds of label."""
        splits, findings, without = {}, [], []
        for split in ("train", "val", "test"):
            folder = root / "leftImg8bit" / split
            if split == "test" and not folder.is_dir():
                continue
            images = by_id(_files(cls, folder, _IMAGE), _frame, dataset=cls.dataset)
            labels = _labels(cls, root / "gtFine" / split) if split != "test" else {}
            if labels:
                splits[split], alone = paired(images, labels)
                findings += alone
                continue
            findings += _other_files(cls, root / "gtFine" / split, split)
            splits[split] = unlabelled(images)
            without.append(split)
        return Listing(
            splits=splits, findings=tuple(findings), unlabelled=tuple(without)
        )

    @classmethod
    def label_table(cls, pair, config):
        """That of the label ids, or of the train ids made by the official tool."""
        made = pair.label.stem.endswith(_TRAIN_IDS)
        return LABEL_MAPS["train_ids" if made else "cityscapes", config.space]


def _files(cls, folder: pathlib.Path, ending: str) -> list[pathlib.Path]:
    return sorted_files(folder, dataset=cls.dataset, pattern=f"*/*{ending}.png")


def _frame(path: pathlib.Path) -> str:
    """`aachen_000000_000019` of any file of that frame."""
    return "_".join(path.stem.split("_")[:3])


def _other_files(cls, folder: pathlib.Path, split: str) -> tuple[Finding, ...]:
    """What is worth saying of a folder without label ids.

    Raises:
        DataError: of the validation split, which needs labels.
    """
    if split == "val":
        raise fault(
            f"{folder} holds no */*{_LABEL_IDS}.png.",
            dataset=cls.dataset,
            mend="Extract gtFine there.",
        )
    if split == "test" or not any(folder.glob("*/*.png")):
        return ()
    text = f"{folder} holds PNGs but no */*{_LABEL_IDS}.png: {split} has no labels."
    return (Finding(kind="no label ids", text=text),)


def _labels(cls, folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Frame → label file, from whichever id images are there."""
    found = {}
    for ending in (_TRAIN_IDS, _LABEL_IDS):
        if any(folder.glob(f"*/*{ending}.png")):
            files = _files(cls, folder, ending)
            found |= by_id(files, _frame, dataset=cls.dataset)
    return found


Builder = CityscapesSegmentation
