"""IAST's augmentation, images and label maps as its data sets give them, its lists."""

import random

import numpy as np

from sfda_jax.data import image_ops
from sfda_jax.data.label_maps import LABEL_MAPS
from sfda_jax.data.list_order import in_published_order
from sfda_jax.data.lists import load_list
from sfda_jax.data.sized_crop import SizedCrop, SizedDecisions
from sfda_jax.data.training_labels import training_labels
from sfda_jax.types import IGNORE

SYSTEM = "iast"


class _PythonDraws:
    """Python's generator, with the draws that always succeed taken out."""

    def __init__(self, seed):
        self._random = random.Random(seed)
        self._random.random()  # whether to augment at all

    def random(self):
        return self._random.random()

    def integers(self, low, high):
        self._random.random()  # whether to crop
        return self._random.randint(low, high - 1)


def _assert_same(drawn, expected):
    assert drawn.flip == expected.flip
    assert (drawn.colour is None) == (expected.colour is None)
    for name in ("colour", "height", "top", "left"):
        found = getattr(drawn, name)
        if found is not None:
            np.testing.assert_allclose(found, getattr(expected, name), rtol=1e-12)


def check_augmentation(path):
    case = np.load(path)
    height, width = (int(side) for side in case["out_hw"])
    low, high = (int(side) for side in case["min_max_height"])
    crop = SizedCrop(size=(height, width), heights=(low, high), aspect=2.0)
    colour = (float(case["alpha"]), float(case["beta"])) if case["bc"] else None
    decisions = SizedDecisions(
        flip=bool(case["flip"]),
        colour=colour,
        height=int(case["crop_height"]),
        top=float(case["h_start"]),
        left=float(case["w_start"]),
    )
    drawn = crop.draw(_PythonDraws(int(case["py_random_seed"])))
    _assert_same(drawn, decisions)
    image, mask = crop.apply(case["image"], case["mask"], decisions)
    np.testing.assert_array_equal(mask, case["out_mask"])
    np.testing.assert_array_equal(image, case["out_image"])


def check_dataset(path):
    case = np.load(path)
    image, label = case["image"], case["label"]
    width, height = (int(side) for side in case["resize_wh"])
    smaller = image_ops.resize(image, (height, width), "lanczos")
    for name, pixels in (("plain_image", image), ("resized_image", smaller)):
        normalised = image_ops.normalise(pixels, "single").transpose(2, 0, 1)
        np.testing.assert_allclose(normalised, case[name], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(label, case["plain_label"])
    smaller = image_ops.resize(label, (height, width), "nearest")
    np.testing.assert_array_equal(smaller, case["resized_label"])
    record = {"image": image, "id": "a", "domain": "target"}
    enlarged = training_labels(record, {"a": case["pseudo_small"]}.__getitem__)
    np.testing.assert_array_equal(enlarged, case["pseudo_full"])


def check_label_maps(path):
    case = np.load(path)
    # Ids that no file of the dataset holds are a fault here, ignored there.
    for dataset, top in (("gta5", 34), ("synthia", 22)):
        expected = case[f"{dataset}_id_to_train"]
        table = LABEL_MAPS[dataset, "cityscapes19"]
        np.testing.assert_array_equal(table[: top + 1], expected[: top + 1])
        assert (expected[top + 1 :] == IGNORE).all()


def check_lists(path):
    case = np.load(path)
    for dataset, name in (("gta5", "gta5_iast"), ("synthia", "synthia_all")):
        listed = case[f"{dataset}_ids_in_list_order"]
        wanted = load_list(name)
        ids = sorted(wanted.names)
        assert len(ids) == len(listed)
        places = in_published_order(name, ids, np.arange(len(ids)))
        np.testing.assert_array_equal([int(ids[i]) for i in places], listed)


CHECKERS = {
    "aug_*.npz": check_augmentation,
    "dataset_cityscapes*.npz": check_dataset,
    "dataset_lists*.npz": check_lists,
    "label_maps.npz": check_label_maps,
}
