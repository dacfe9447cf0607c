"""Procedural driving scenes, drawn on the spot: the demo that needs no download."""

import io
import pathlib
import re

import cv2
import tensorflow_datasets as tfds

from data_prep.builder import SegmentationBuilder, SegmentationConfig
from data_prep.listing import Listing, Pair
from data_prep.reading import encoded_label
from sfda_jax.data import scenes
from sfda_jax.errors import DataError

_SEED = 2024


class SceneConfig(SegmentationConfig):
    """Image size, images in each training split (a quarter of it in the others), looks.

    Attributes:
        weather: one look in several weathers instead of two looks.
        train: images in each training split.
    """

    def __init__(self, *, name: str, size: tuple[int, int], train: int, weather: bool):
        super().__init__(space="cityscapes19", size=size)
        self.name = name
        self.train = train
        self.weather = weather


class ProceduralScenes(SegmentationBuilder):
    """Splits `game_train`, `game_val` (source), `real_train`, `real_test` (target).

    Variants are sizes: `96x192` has 400/100/400/100 images, `48x96-16` 16/4/16/4.
    `weather-96x192` (with or without a number of images) has `day_train`, `day_test`,
    the same of `haze` and `dusk`, and `day2_train`, other images of clear days.
    """

    VERSION = tfds.core.Version("1.2.0")  # raise it when a pixel of a scene changes
    dataset = "scenes"
    reads_files = False

    @classmethod
    def locate(cls, manual_dir, variant: str):
        """The configuration of any size; no file is read."""
        variant = variant or "96x192"
        match = re.fullmatch(r"(weather-)?(\d+)x(\d+)(?:-(\d+))?", variant)
        if not match:
            raise DataError(
                f"Dataset 'scenes' has no variant {variant!r}.",
                hint="Expected [weather-]HEIGHTxWIDTH[-IMAGES], e.g. 96x192, "
                "48x96-16, weather-96x192.",
            )
        weather, height, width, train = match.groups()
        config = SceneConfig(
            name=variant,
            size=(int(height), int(width)),
            train=int(train or 400),
            weather=bool(weather),
        )
        return config, None

    @classmethod
    def listing(cls, root, config):
        """Scene numbers: none is in two splits of a variant."""
        held_out = max(config.train // 4, 1)
        if not config.weather:
            return Listing(
                splits={
                    "game_train": _scenes("game", 0, config.train),
                    "game_val": _scenes("game", 1_000_000, held_out),
                    "real_train": _scenes("real", 2_000_000, config.train),
                    "real_test": _scenes("real", 3_000_000, held_out),
                }
            )
        splits = {}
        for number, look in enumerate(scenes.WEATHERS):
            first = number * 2_000_000
            splits[f"{look}_train"] = _scenes(look, first, config.train)
            splits[f"{look}_test"] = _scenes(look, first + 1_000_000, held_out)
        splits["day2_train"] = _scenes("day", 6_000_000, config.train)
        return Listing(splits=splits)

    @classmethod
    def encode(cls, pair, config):
        """The scene of that name, drawn now."""
        look, number = pair.id.split("_")
        image, label = scenes.render(
            int(number), look=look, seed=_SEED, size=config.size
        )
        png = cv2.imencode(".png", image[..., ::-1])[1]
        return {
            "image": io.BytesIO(png.tobytes()),
            "label": encoded_label(label),
            "id": pair.id,
        }


def _scenes(look: str, first: int, count: int) -> tuple[Pair, ...]:
    names = (f"{look}_{first + i:07d}" for i in range(count))
    return tuple(Pair(id=name, image=pathlib.Path(name)) for name in names)


Builder = ProceduralScenes
