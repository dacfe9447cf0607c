"""Cityscapes: 2975 training and 500 validation frames of German cities, 2048×1024."""

import pathlib
from typing import ClassVar

import tensorflow_datasets as tfds

from data_prep.reading import (
    SegmentationBuilder,
    fault,
    label_values,
    list_images,
)
from data_prep.reading import example as encoded_example
from sfda_jax.data.label_maps import LABEL_MAPS, apply_label_map
from sfda_jax.tasks import class_space

_IMAGE = "_leftImg8bit"


class CityscapesSegmentation(SegmentationBuilder):
    """Splits `train` (labels optional) and `val`, in the order of relative paths."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    leftImg8bit/{train,val}/<city>/*_leftImg8bit.png and
    gtFine/{train,val}/<city>/*_gtFine_labelIds.png (or _labelTrainIds.png) from
    cityscapes-dataset.com. gtFine/train may be absent: adaptation does not read it.
    """
    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(name=name) for name in ("cityscapes19", "synthia16")
    ]
    dataset = "cityscapes"

    def _info(self):
        return self._dataset_info(class_space(self.builder_config.name))

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        root = pathlib.Path(dl_manager.manual_dir)
        if not (root / "gtFine" / "train").is_dir():
            self.info.metadata["unlabelled_splits"] = ["train"]
        return {
            split: self._generate_examples(root, split) for split in ("train", "val")
        }

    def _generate_examples(self, root: pathlib.Path, split: str):
        images = root / "leftImg8bit" / split
        labelled = split not in self.info.metadata["unlabelled_splits"]
        for path in list_images(
            images, dataset=self.dataset, pattern=f"*/*{_IMAGE}.png"
        ):
            frame = path.stem.removesuffix(_IMAGE)
            train_ids, label_path = None, None
            if labelled:
                folder = root / "gtFine" / split / path.parent.name
                train_ids, label_path = self._label(folder, frame)
            _, features = encoded_example(
                path, train_ids, dataset=self.dataset, label_path=label_path
            )
            yield frame, {**features, "id": frame}

    def _label(self, folder: pathlib.Path, frame: str):
        """(train ids, file) of one frame, from whichever id image is there."""
        for suffix, name in (
            ("labelIds", "cityscapes"),
            ("labelTrainIds", "train_ids"),
        ):
            path = folder / f"{frame}_gtFine_{suffix}.png"
            if path.is_file():
                table = LABEL_MAPS[name, self.builder_config.name]
                values = label_values(path, dataset=self.dataset)
                return (
                    apply_label_map(values, table, path=path, dataset=self.dataset),
                    path,
                )
        raise fault(
            f"{folder / frame}_gtFine_labelIds.png not found, nor _labelTrainIds.png.",
            dataset=self.dataset,
            mend="Extract gtFine_trainvaltest.zip again, or remove gtFine/train.",
        )


Builder = CityscapesSegmentation
