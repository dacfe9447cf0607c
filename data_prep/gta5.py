"""GTA5 (Playing for Data): 24 966 rendered frames with Cityscapes label ids."""

import pathlib
from typing import ClassVar

import tensorflow_datasets as tfds

from data_prep.reading import (
    SegmentationBuilder,
    list_images,
    read_names,
)
from sfda_jax.data.label_maps import LABEL_MAPS
from sfda_jax.tasks import class_space

_EXCLUDED = pathlib.Path(__file__).parent / "splits" / "gta5_exclude.txt"


class Gta5Segmentation(SegmentationBuilder):
    """Split `train`: all frames but the defective ones of `gta5_exclude.txt`.

    Labels are palette PNGs whose index is the label id; frames have several sizes.
    """

    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    The publisher's ten image and ten label archives, extracted into images/*.png and
    labels/*.png (same names).
    """
    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(name=name) for name in ("cityscapes19", "synthia16")
    ]
    dataset = "gta5"

    def _info(self):
        return self._dataset_info(class_space(self.builder_config.name))

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        root = pathlib.Path(dl_manager.manual_dir)
        excluded = set(read_names(_EXCLUDED))
        pairs = [
            (path, root / "labels" / f"{path.stem}.png")
            for path in list_images(root / "images", dataset=self.dataset)
            if path.stem not in excluded
        ]
        table = LABEL_MAPS["gta5", self.builder_config.name]
        return {"train": self._generate_examples(pairs, table)}


Builder = Gta5Segmentation
