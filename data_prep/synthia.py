"""SYNTHIA-RAND-CITYSCAPES: 9 400 rendered frames, 16 of the Cityscapes classes."""

import pathlib
from typing import ClassVar

import cv2
import numpy as np
import tensorflow_datasets as tfds

from data_prep.reading import SegmentationBuilder, example, fault, list_images
from sfda_jax.data.label_maps import LABEL_MAPS, apply_label_map
from sfda_jax.tasks import class_space


class SynthiaRandCityscapes(SegmentationBuilder):
    """Split `train`. Lane markings (id 22) are ignored.

    Labels are 16-bit PNGs of three channels, class and instance ids in the first two:
    a reader of eight bits returns zeros without a word.
    """

    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    RAND_CITYSCAPES/RGB/*.png and RAND_CITYSCAPES/GT/LABELS/*.png (same names), from
    synthia-dataset.net; manual_dir may also be RAND_CITYSCAPES itself.
    """
    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(name=name) for name in ("synthia16", "cityscapes19")
    ]
    dataset = "synthia"

    def _info(self):
        return self._dataset_info(class_space(self.builder_config.name))

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        root = pathlib.Path(dl_manager.manual_dir)
        if (root / "RAND_CITYSCAPES").is_dir():
            root = root / "RAND_CITYSCAPES"
        return {"train": self._generate_examples(root)}

    def _generate_examples(self, root: pathlib.Path):
        table = LABEL_MAPS["synthia", self.builder_config.name]
        for path in list_images(root / "RGB", dataset=self.dataset):
            label_path = root / "GT" / "LABELS" / f"{path.stem}.png"
            train_ids = apply_label_map(
                _class_ids(label_path), table, path=label_path, dataset=self.dataset
            )
            yield example(path, train_ids, dataset=self.dataset, label_path=label_path)


def _class_ids(path: pathlib.Path) -> np.ndarray:
    """The class ids `[H,W]`, from the red channel."""
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
            f"{path} holds {pixels.dtype}{list(pixels.shape)}, expected 16-bit RGB.",
            dataset="synthia",
            mend="Use GT/LABELS as published, not GT/COLOR or a converted copy.",
        )
    ids = pixels[..., 2]  # OpenCV orders blue, green, red
    if not ids.any():
        raise fault(
            f"{path} holds class 0 only, expected ids 0–22 in the red channel.",
            dataset="synthia",
            mend="Use the file as published: an 8-bit copy has lost its ids.",
        )
    return ids


Builder = SynthiaRandCityscapes
