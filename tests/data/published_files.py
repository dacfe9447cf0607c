"""Small folders in the published layouts, to break on purpose."""

import pathlib

import cv2
import numpy as np
from PIL import Image

from sfda_jax.tasks import CLASS_SPACES

SIZE = (24, 32)
_LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
_ID_OF_CLASS = np.array(_LABEL_IDS, np.uint8)


def image(seed: int = 0, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Noise, uint8[H,W,3]: no two are alike."""
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def train_ids(size: tuple[int, int] = SIZE, num_classes: int = 19) -> np.ndarray:
    """Every class, in turn along the rows."""
    numbers = np.arange(size[0] * size[1]) % num_classes
    return numbers.reshape(size).astype(np.uint8)


def palette_png(path: pathlib.Path, indices: np.ndarray) -> None:
    """A label as GTA5 has them: indices into the class colours."""
    colours = np.zeros((256, 3), np.uint8)
    colours[_ID_OF_CLASS] = CLASS_SPACES["cityscapes19"].palette
    picture = Image.fromarray(indices)
    picture.putpalette(colours.tobytes())
    picture.save(path)


def save(path: pathlib.Path, pixels: np.ndarray) -> pathlib.Path:
    """Writes pixels of 8 bits; makes the folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def gta5(root: pathlib.Path, count: int = 3) -> pathlib.Path:
    """`images/00001.png …` and palette labels."""
    for i in range(1, count + 1):
        save(root / "images" / f"{i:05d}.png", image(i))
        path = root / "labels" / f"{i:05d}.png"
        path.parent.mkdir(exist_ok=True)
        palette_png(path, _ID_OF_CLASS[train_ids()])
    return root


def synthia_label(path: pathlib.Path, classes: np.ndarray, instance: int = 300) -> None:
    """16 bits: red = class, green = instance, blue = 0."""
    pixels = np.zeros((*classes.shape, 3), np.uint16)
    pixels[..., 2], pixels[..., 1] = classes, instance  # OpenCV writes blue first
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), pixels)


def synthia(root: pathlib.Path, count: int = 2) -> pathlib.Path:
    """`RAND_CITYSCAPES/{RGB,GT/LABELS}`."""
    for i in range(count):
        folder = root / "RAND_CITYSCAPES"
        save(folder / "RGB" / f"{i:07d}.png", image(i))
        values = np.arange(SIZE[0] * SIZE[1]).reshape(SIZE) % 23
        synthia_label(folder / "GT" / "LABELS" / f"{i:07d}.png", values)
    return root


def cityscapes(root: pathlib.Path) -> pathlib.Path:
    """One frame each of train and val, with all three kinds of label file."""
    for split, city in (("train", "aachen"), ("val", "lindau")):
        frame = f"{city}_000000_000019"
        folder = root / "leftImg8bit" / split / city
        save(folder / f"{frame}_leftImg8bit.png", image(len(city)))
        labels = root / "gtFine" / split / city / f"{frame}_gtFine"
        ids = _ID_OF_CLASS[train_ids()]
        save(labels.with_name(f"{labels.name}_labelIds.png"), ids)
        colours = CLASS_SPACES["cityscapes19"].palette[train_ids()]
        opaque = np.full((*SIZE, 1), 255, np.uint8)
        rgba = np.concatenate([colours, opaque], axis=2)
        save(labels.with_name(f"{labels.name}_color.png"), rgba)
        wide = ids.astype(np.uint16)
        instances = np.where(ids >= 24, wide * 1000 + 1, wide).astype(np.uint16)
        save(labels.with_name(f"{labels.name}_instanceIds.png"), instances)
    return root


def own_folder(root: pathlib.Path, count: int = 3) -> pathlib.Path:
    """`classes.txt`, `train` and `val` of two classes."""
    for k, split in enumerate(("train", "val")):
        for i in range(count):
            save(root / split / "images" / f"frame{i}.png", image(10 * k + i))
            labels = train_ids(num_classes=2)
            save(root / split / "labels" / f"frame{i}.png", labels)
    (root / "classes.txt").write_text("0 road\n1 car\n")
    return root


MAKERS = {
    "gta5": gta5,
    "synthia": synthia,
    "cityscapes": cityscapes,
    "folder": own_folder,
}
