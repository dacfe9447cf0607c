"""Label maps, class lists and paste classes of the Stable-ST family."""

import json
import pathlib

import numpy as np

from sfda_jax.data.label_maps import LABEL_MAPS, SYNTHIA16_TO_CITYSCAPES19
from sfda_jax.tasks import class_space
from sfda_jax.types import IGNORE

SYSTEM = "stable_st"

# The original's spellings of our class names.
_SPELLING = {
    "light": "traffic light",
    "sign": "traffic sign",
    "motocycle": "motorcycle",
}
_SPACES = {"19": "cityscapes19", "16": "synthia16"}


def check_label_maps(path: pathlib.Path) -> None:
    case = json.loads(path.read_text())
    unclaimed = set(case)
    for key in sorted(case):
        stem, _, suffix = key.rpartition("_")
        if stem.endswith("_id_to_trainid"):
            _check_table(case[key], stem.removesuffix("_id_to_trainid"), suffix)
        elif stem == "trainid_to_name":
            names = [case[key][str(i)] for i in range(len(case[key]))]
            ours = class_space(_SPACES[suffix]).names
            assert tuple(_SPELLING.get(name, name) for name in names) == ours
        elif stem == "mix_classes":
            names = class_space(_SPACES[suffix]).names
            assert tuple(names[i] for i in case[key]) == _PASTED[suffix]
        elif key == "trainid16_to_trainid19":
            assert {int(k): v for k, v in case[key].items()} == dict(
                enumerate(SYNTHIA16_TO_CITYSCAPES19)
            )
        else:
            continue
        unclaimed.remove(key)
    assert not unclaimed


def _check_table(mapping: dict[str, int], dataset: str, suffix: str) -> None:
    table = LABEL_MAPS[dataset, _SPACES[suffix]]
    expected = np.full(256, IGNORE, np.uint8)
    expected[[int(value) for value in mapping]] = list(mapping.values())
    # Ids that no file of the dataset holds are a fault here, ignored there.
    top = 22 if dataset == "synthia" else 33
    np.testing.assert_array_equal(table[: top + 1], expected[: top + 1])
    assert (expected[top + 1 :] == IGNORE).all()


# What copy-paste pastes: thin and rare classes (terrain, truck and bus are not).
_PASTED = {
    "19": (
        *("fence", "pole", "traffic light", "traffic sign", "rider", "train"),
        *("motorcycle", "bicycle"),
    ),
    "16": (
        *("wall", "pole", "traffic light", "traffic sign", "rider", "motorcycle"),
        "bicycle",
    ),
}

CHECKERS = {"label_maps.json": check_label_maps}
