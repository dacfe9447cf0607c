"""NTHU CrossCity: Rio, Rome, Taipei and Tokyo, 100 labelled frames a city."""

from data_prep.builder import SegmentationBuilder
from data_prep.listing import Listing, by_id, paired, sorted_files, unlabelled
from data_prep.reading import fault
from sfda_jax.data.label_maps import LABEL_MAPS

_CITIES = ("Rio", "Rome", "Taipei", "Tokyo")
_EVAL = "_eval"


class CrossCitySegmentation(SegmentationBuilder):
    """Splits `rio_train` (unlabelled), `rio_test`, … of each city that is there.

    The labels are label ids of Cityscapes, of which 13 classes count. A network of 19
    outputs is scored on them with variant `cityscapes19` and subset `mIoU13`.
    """

    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    NTHU_Datasets/{Rio,Rome,Taipei,Tokyo}/Images/{Train,Test}/*.{jpg,png} and
    <city>/Labels/Test/*_eval.png; manual_dir may also be NTHU_Datasets itself. Cities
    may be absent, and so may Images/Train or Images/Test of a city.
    """
    dataset = "crosscity"
    spaces = ("crosscity13", "cityscapes19", "synthia16")
    label_mend = "Use Labels/Test/*_eval.png as published."
    published = {  # noqa: RUF012
        f"{city.lower()}_{split}": count
        for city in _CITIES
        for split, count in (("train", 3200), ("test", 100))
    }

    @classmethod
    def listing(cls, root, config):
        """Train images, and the labelled test images, of the cities that are there."""
        if (root / "NTHU_Datasets").is_dir():
            root = root / "NTHU_Datasets"
        splits, findings, without = {}, [], []
        for city in _CITIES:
            images, name = root / city / "Images", city.lower()
            if (images / "Train").is_dir():
                splits[f"{name}_train"] = unlabelled(_files(images / "Train"))
                without.append(f"{name}_train")
            if (images / "Test").is_dir():
                labels = _files(root / city / "Labels" / "Test", _EVAL)
                splits[f"{name}_test"], alone = paired(_files(images / "Test"), labels)
                findings += alone
        if not splits:
            raise fault(
                f"{root} holds no <city>/Images/Train or Test of {', '.join(_CITIES)}.",
                dataset=cls.dataset,
                mend="Extract the archive there.",
            )
        return Listing(
            splits=splits, findings=tuple(findings), unlabelled=tuple(without)
        )

    @classmethod
    def label_table(cls, pair, config):
        """That of the Cityscapes label ids."""
        return LABEL_MAPS["cityscapes", config.space]


def _files(folder, ending: str = ""):
    return by_id(
        sorted_files(folder, dataset="crosscity", pattern=f"*{ending}.*"),
        lambda path: path.stem.removesuffix(ending),
        dataset="crosscity",
    )


Builder = CrossCitySegmentation
