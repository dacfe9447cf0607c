"""GTA5 (Playing for Data): 24 966 rendered frames with Cityscapes label ids."""

import pathlib

from data_prep.builder import SegmentationBuilder
from data_prep.listing import Finding, Listing, by_id, paired, sorted_files
from data_prep.reading import read_names

_EXCLUDED = pathlib.Path(__file__).parent / "splits" / "gta5_exclude.txt"


class Gta5Segmentation(SegmentationBuilder):
    """Split `train`: all frames but the defective ones of `gta5_exclude.txt`.

    Labels are palette PNGs whose index is the label id; frames have several sizes.
    """

    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    The publisher's ten image and ten label archives, extracted into images/*.png and
    labels/*.png (same names).
    """
    dataset = "gta5"
    spaces = ("cityscapes19", "synthia16", "crosscity13")
    published = {"train": 24904}  # noqa: RUF012
    image_sizes = ((1052, 1914), (1046, 1914))
    label_mend = (
        "Extract the publisher's label archives again and copy the files without "
        "opening them: programs that expand palettes (OpenCV, Pillow's convert) have "
        "replaced the indices, which are the ids, by colours."
    )

    @classmethod
    def listing(cls, root, config):
        """All pairs, the published defects left out."""
        images = by_id(
            sorted_files(root / "images", dataset=cls.dataset), dataset=cls.dataset
        )
        labels = by_id(
            sorted_files(root / "labels", dataset=cls.dataset), dataset=cls.dataset
        )
        defects = set(read_names(_EXCLUDED))
        pairs, findings = paired(images, labels)
        known = tuple(
            Finding(
                kind="defect",
                id=pair.id,
                pair=pair,
                text=f"{pair.image} is in {_EXCLUDED.name}: left out.",
            )
            for pair in pairs
            if pair.id in defects
        )
        kept = tuple(pair for pair in pairs if pair.id not in defects)
        return Listing(splits={"train": kept}, findings=(*findings, *known))


Builder = Gta5Segmentation
