"""CamVid at 480×360, split into day (source) and dusk (target) driving."""

import pathlib

import tensorflow_datasets as tfds

from data_prep.reading import (
    SegmentationBuilder,
    fault,
    list_images,
    read_names,
)
from sfda_jax.data.label_maps import LABEL_MAPS
from sfda_jax.tasks import class_space

_SPLITS = pathlib.Path(__file__).parent / "splits"


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

    def _info(self):
        return self._dataset_info(class_space("camvid11"))

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        root = pathlib.Path(dl_manager.manual_dir)
        splits = ("day_train", "day_val", "dusk_train", "dusk_test")
        table = LABEL_MAPS["camvid", "camvid11"]
        return {
            split: self._generate_examples(_pairs(root, split), table)
            for split in splits
        }


def _pairs(root: pathlib.Path, split: str):
    """(image, label) paths of one split, in either layout."""
    if (root / "trainannot").is_dir():
        names = read_names(_SPLITS / f"camvid_{split}.txt")
        folders = (name.split("/") for name in names)
        return [(root / f / n, root / f"{f}annot" / n) for f, n in folders]
    if not (root / "day").is_dir():
        raise fault(
            f"{root} holds neither trainannot/ (SegNet edition) nor day/ and dusk/.",
            dataset="camvid",
            mend="Expected one of these two layouts.",
        )
    folder = root.joinpath(*split.split("_"))
    labels = folder / "labels"
    if not labels.is_dir():
        labels = folder / "labels_eval_only"
    images = list_images(folder / "images", dataset="camvid")
    return [(path, labels / f"{path.stem}.png") for path in images]


Builder = CamvidDayDusk
