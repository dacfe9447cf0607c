"""Procedural driving scenes, drawn on the spot: the demo that needs no download."""

import io
import re
from typing import ClassVar

import cv2
import tensorflow_datasets as tfds

from data_prep.reading import SegmentationBuilder, encoded_label
from sfda_jax.data import scenes
from sfda_jax.errors import DataError
from sfda_jax.tasks import class_space

_SEED = 2024


class SceneConfig(tfds.core.BuilderConfig):
    """Image size, and images in each training split (a quarter of it in the others)."""

    def __init__(self, *, size: tuple[int, int], train: int, **kwargs):
        super().__init__(**kwargs)
        self.size = size
        self.train = train


def _config(variant: str) -> SceneConfig:
    match = re.fullmatch(r"(\d+)x(\d+)(?:-(\d+))?", variant)
    if not match:
        raise DataError(
            f"Dataset 'scenes' has no variant {variant!r}.",
            hint="Expected HEIGHTxWIDTH or HEIGHTxWIDTH-IMAGES, e.g. 96x192, 48x96-16.",
        )
    height, width, train = match.groups()
    return SceneConfig(
        name=variant, size=(int(height), int(width)), train=int(train or 400)
    )


class ProceduralScenes(SegmentationBuilder):
    """Splits `game_train`, `game_val` (source), `real_train`, `real_test` (target).

    Variants are sizes: `96x192` has 400/100/400/100 images, `48x96-16` 16/4/16/4.
    """

    VERSION = tfds.core.Version("1.1.0")  # raise it when a pixel of a scene changes
    BUILDER_CONFIGS: ClassVar = [_config("96x192"), _config("192x384")]
    dataset = "scenes"
    reads_files = False

    @classmethod
    def locate(cls, manual_dir, variant: str):
        """The configuration of any size; no file is read."""
        variant = variant or "96x192"
        return cls.builder_configs.get(variant) or _config(variant), None

    def _info(self):
        return self._dataset_info(class_space("cityscapes19"))

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        train = self.builder_config.train
        held_out = max(train // 4, 1)
        return {
            "game_train": self._generate_examples("game", 0, train),
            "game_val": self._generate_examples("game", 1_000_000, held_out),
            "real_train": self._generate_examples("real", 2_000_000, train),
            "real_test": self._generate_examples("real", 3_000_000, held_out),
        }

    def _generate_examples(self, look: str, first: int, count: int):
        for i in range(count):
            image, label = scenes.render(
                first + i, look=look, seed=_SEED, size=self.builder_config.size
            )
            png = cv2.imencode(".png", image[..., ::-1])[1]
            name = f"{look}_{first + i:07d}"
            features = {
                "image": io.BytesIO(png.tobytes()),
                "label": encoded_label(label),
                "id": name,
            }
            yield name, features


Builder = ProceduralScenes
