"""SYNTHIA-RAND-CITYSCAPES: 9 400 rendered frames, 16 of the Cityscapes classes."""

import pathlib

import cv2
import numpy as np
from PIL import Image

from data_prep.builder import SegmentationBuilder
from data_prep.listing import Listing, by_id, paired, sorted_files
from data_prep.reading import fault, opened
from sfda_jax.data.label_maps import LABEL_MAPS
from sfda_jax.data.wrong_labels import class_colours

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
    spaces = ("synthia16", "cityscapes19", "crosscity13")
    options = ("lanes_as_road",)
    published = {"train": 9400}  # noqa: RUF012
    image_sizes = ((760, 1280),)
    absent_classes = ("terrain", "truck", "train")

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
        """The map of the class space; CRST's differs in one entry."""
        table = LABEL_MAPS["synthia", config.space]
        if "lanes_as_road" in config.options:
            table = table.copy()
            table[_LANE_MARKING] = _ROAD
        return table


def label_channels(path: pathlib.Path) -> np.ndarray:
    """Class and instance ids, uint16[H,W,2], of a published label file.

    Raises:
        DataError: missing, damaged, of eight bits, grey, or without any class.
    """
    data, image = opened(path, dataset="synthia")
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    found = _no_label(image, pixels)
    if found:
        raise fault(
            f"{path} {found}, expected 16-bit RGB (red = class id 0–22, green = "
            "instance id).",
            dataset="synthia",
            mend="Extract GT/LABELS of SYNTHIA-RAND-CITYSCAPES again and copy the "
            "files without opening them.",
            kind="encoding",
        )
    return pixels[..., :0:-1]  # OpenCV orders blue, green, red


def _no_label(image: Image.Image, pixels: np.ndarray) -> str:
    """What is wrong with decoded pixels, uint8 or uint16 `[H,W(,3)]`; else empty."""
    if pixels.ndim == 2:
        return f"holds one channel of {pixels.dtype}: a converted copy"
    red = pixels[..., 2]
    if pixels.dtype == np.uint16:
        if not red.any():
            return "holds class 0 only: its class ids are lost, or were never drawn"
        if red.max() > _LANE_MARKING:
            return f"holds id {red.max()}: of another SYNTHIA set with its own ids"
        return ""
    if not red.any():
        return (
            "holds 8 bits a channel and class 0 only: a reader of 8 bits, such as "
            "Pillow or OpenCV's default, has kept the high bytes, which are zero"
        )
    if class_colours(image):
        return "holds 8 bits a channel in class colours: a file of GT/COLOR"
    return "holds 8 bits a channel: a converted copy, or a file of GT/COLOR"


Builder = SynthiaRandCityscapes
