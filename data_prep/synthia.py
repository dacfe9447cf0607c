"""SYNTHIA-RAND-CITYSCAPES: 9 400 rendered frames, 16 of the Cityscapes classes."""

import pathlib

import cv2
import numpy as np

from data_prep.builder import SegmentationBuilder
from data_prep.listing import Listing, by_id, paired, sorted_files
from data_prep.reading import fault
from sfda_jax.data.label_maps import LABEL_MAPS

_LANE_MARKING, _ROAD = 22, 0


class SynthiaRandCityscapes(SegmentationBuilder):
    """Split `train`. Lane markings (id 22) are ignored, or road as CRST has it.

    Labels are 16-bit PNGs of three channels, class and instance ids in the first two:
    a reader of eight bits returns zeros without a word.
    """

    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    RAND_CITYSCAPES/RGB/*.png and RAND_CITYSCAPES/GT/LABELS/*.png (same names), from
    synthia-dataset.net; manual_dir may also be RAND_CITYSCAPES itself.
    """
    dataset = "synthia"
    spaces = ("synthia16", "cityscapes19")
    options = ("lanes_as_road",)
    published = {"train": 9400}  # noqa: RUF012

    @classmethod
    def listing(cls, root, config):
        """All pairs of `RGB` and `GT/LABELS`."""
        if (root / "RAND_CITYSCAPES").is_dir():
            root = root / "RAND_CITYSCAPES"
        images, labels = (
            by_id(sorted_files(folder, dataset=cls.dataset), dataset=cls.dataset)
            for folder in (root / "RGB", root / "GT" / "LABELS")
        )
        pairs, findings = paired(images, labels)
        return Listing(splits={"train": pairs}, findings=findings)

    @classmethod
    def label_values(cls, path):
        """The class ids, from the red channel."""
        return label_channels(path)[..., 0]

    @classmethod
    def label_table(cls, pair, config):
        """The 16- or 19-class map; CRST's differs in one entry."""
        table = LABEL_MAPS["synthia", config.space]
        if "lanes_as_road" in config.options:
            table = table.copy()
            table[_LANE_MARKING] = _ROAD
        return table


def label_channels(path: pathlib.Path) -> np.ndarray:
    """Class and instance ids, uint16[H,W,2], of a published label file.

    Raises:
        DataError: missing, damaged, of eight bits, or without any class.
    """
    pixels = None
    if path.is_file():
        data = np.frombuffer(path.read_bytes(), np.uint8)
        pixels = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    if pixels is None:
        raise fault(
            f"{path} is missing or does not decode, expected a 16-bit PNG.",
            dataset="synthia",
            mend="Extract the archive again.",
        )
    if pixels.dtype != np.uint16 or pixels.ndim != 3:
        raise fault(
            f"{path} holds {pixels.dtype}{list(pixels.shape)}, expected 16-bit RGB "
            "(red = class, green = instance).",
            dataset="synthia",
            mend="Use GT/LABELS as published, not GT/COLOR or a converted copy.",
        )
    if not pixels[..., 2].any():
        raise fault(
            f"{path} holds class 0 only, expected ids 0–22 in the red channel.",
            dataset="synthia",
            mend="Use the file as published: an 8-bit copy has lost its ids.",
        )
    return pixels[..., :0:-1]  # OpenCV orders blue, green, red


Builder = SynthiaRandCityscapes
