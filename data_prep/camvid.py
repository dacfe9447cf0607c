"""CamVid at 480×360, split into day (source) and dusk (target) driving."""

import pathlib

from data_prep.builder import SegmentationBuilder
from data_prep.listing import Listing, Pair, by_id, paired, sorted_files
from data_prep.reading import fault, read_names

_LISTS = pathlib.Path(__file__).parent / "splits"


class CamvidDayDusk(SegmentationBuilder):
    """Splits `day_train`, `day_val`, `dusk_train`, `dusk_test`; 11 classes.

    The name lists in `data_prep/splits/camvid_*.txt` cut the SegNet edition into
    blocks of time, so that no frame has a near-duplicate in another split.
    """

    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    Either the 480×360 SegNet edition (train/ trainannot/ val/ valannot/ test/
    testannot/), or day/{train,val}/{images,labels}, dusk/{train,test}/images with
    labels or labels_eval_only beside it.
    """
    dataset = "camvid"
    spaces = ("camvid11", "cityscapes19")
    splits = ("day_train", "day_val", "dusk_train", "dusk_test")
    image_sizes = ((360, 480),)
    published = {  # noqa: RUF012
        split: len(read_names(_LISTS / f"camvid_{split}.txt")) for split in splits
    }

    @classmethod
    def listing(cls, root, config):
        """The four splits, from either layout."""
        if (root / "trainannot").is_dir():
            return Listing(splits={s: _segnet_pairs(root, s) for s in cls.splits})
        if not (root / "day").is_dir():
            raise fault(
                f"{root} holds neither trainannot/ (SegNet edition) nor day/.",
                dataset=cls.dataset,
                mend="Expected one of these two layouts.",
            )
        found = {s: _split_folder(root.joinpath(*s.split("_"))) for s in cls.splits}
        return Listing(
            splits={s: pairs for s, (pairs, _) in found.items()},
            findings=tuple(f for _, findings in found.values() for f in findings),
        )


def _segnet_pairs(root: pathlib.Path, split: str) -> tuple[Pair, ...]:
    names = read_names(_LISTS / f"camvid_{split}.txt")
    return tuple(
        Pair(
            id=pathlib.Path(name).stem,
            image=root / folder / name,
            label=root / f"{folder}annot" / name,
        )
        for folder, name in (line.split("/") for line in names)
    )


def _split_folder(folder: pathlib.Path):
    labels = folder / "labels"
    if not labels.is_dir():
        labels = folder / "labels_eval_only"
    images, labels = (
        by_id(sorted_files(f, dataset="camvid"), dataset="camvid")
        for f in (folder / "images", labels)
    )
    return paired(images, labels)


Builder = CamvidDayDusk
