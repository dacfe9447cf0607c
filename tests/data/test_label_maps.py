import numpy as np
import pytest

from sfda_jax.data.label_maps import (
    LABEL_MAPS,
    SYNTHIA16_TO_CITYSCAPES19,
    UNMAPPED,
    apply_label_map,
    lookup_table,
    read_class_file,
)
from sfda_jax.errors import DataError
from sfda_jax.tasks import class_space
from sfda_jax.types import IGNORE


@pytest.mark.parametrize("key", sorted(LABEL_MAPS))
def test_table_reaches_its_space_only(key):
    table = LABEL_MAPS[key]
    assert table.shape == (256,) and table.dtype == np.uint8
    mapped = table[table < UNMAPPED]
    assert mapped.max() < class_space(key[1]).num_classes
    assert len(np.unique(mapped)) == len(mapped)  # no two values of one class


def test_sixteen_classes_follow_nineteen():
    wide, narrow = (LABEL_MAPS["cityscapes", s] for s in ("cityscapes19", "synthia16"))
    for value in range(34):
        if narrow[value] != IGNORE:
            assert SYNTHIA16_TO_CITYSCAPES19[narrow[value]] == wide[value]
    assert {v for v in range(34) if wide[v] != IGNORE and narrow[v] == IGNORE} == {
        *(22, 27, 31)  # terrain, truck, train
    }


def test_thirteen_classes_are_sixteen_without_three():
    for dataset in ("cityscapes", "gta5", "synthia", "train_ids"):
        sixteen, thirteen = (
            LABEL_MAPS[dataset, space] for space in ("synthia16", "crosscity13")
        )
        kept = {i for i in range(16) if i not in (3, 4, 5)}  # wall, fence, pole
        for value in range(256):
            wide, narrow = int(sixteen[value]), int(thirteen[value])
            if wide in kept:
                assert narrow == sorted(kept).index(wide)
            else:
                assert narrow == (UNMAPPED if wide == UNMAPPED else IGNORE)


def test_camvid_among_the_cityscapes_classes():
    ours, theirs = class_space("camvid11").names, class_space("cityscapes19").names
    table = LABEL_MAPS["camvid", "cityscapes19"]
    renamed = {
        "pavement": "sidewalk",
        "tree": "vegetation",
        "sign": "traffic sign",
        "pedestrian": "person",
        "bicyclist": "rider",
    }
    for i, name in enumerate(ours):
        assert theirs[table[i]] == renamed.get(name, name)
    assert table[11] == IGNORE


def test_apply_label_map_names_value_file_and_range():
    label = np.array([[7, 8], [37, 7]], np.uint8)
    table = LABEL_MAPS["cityscapes", "cityscapes19"]
    with pytest.raises(DataError, match=r"a\.png holds value 37, .*ids 0–33, 255"):
        apply_label_map(label, table, path="a.png", dataset="cityscapes")
    mapped = apply_label_map(label[:1], table, path="a.png", dataset="cityscapes")
    np.testing.assert_array_equal(mapped, [[0, 1]])
    assert mapped.dtype == np.uint8


@pytest.mark.parametrize("bad", [-1, 300])
def test_apply_label_map_refuses_values_beyond_a_byte(bad):
    label = np.array([[0, bad]], np.int32)
    with pytest.raises(DataError, match=f"holds value {bad}"):
        apply_label_map(label, lookup_table({0: 0}), path="x", dataset="mine")


def _write(tmp_path, text):
    path = tmp_path / "classes.txt"
    path.write_text(text)
    return path


def test_class_file(tmp_path):
    path = _write(
        tmp_path,
        "# my city\n\n0 road #010203\n4, 5  traffic light\n9 kerb\n11 ignore\n",
    )
    space, table = read_class_file(path)
    assert space.names == ("road", "traffic light", "kerb")
    assert space.subsets == {"mIoU3": (0, 1, 2)}
    np.testing.assert_array_equal(space.palette[:2], [[1, 2, 3], [250, 170, 30]])
    assert [int(v) for v in table[[0, 4, 5, 9, 11, 255, 1]]] == [
        *(0, 1, 1, 2, IGNORE, IGNORE, UNMAPPED)
    ]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("road 0\n", "line 1: 'road 0' is not a class"),
        ("0 road\n0 car\n", "line 2.*value 0 is used twice"),
        ("0 road\n1 road\n", "line 2.*name is used twice"),
        ("300 road\n", "above 255"),
        ("# nothing\n", "names 0 classes"),
        ("0 road #12\n", "not a class"),
    ],
)
def test_class_file_faults(tmp_path, text, found):
    with pytest.raises(DataError, match=found):
        read_class_file(_write(tmp_path, text))


def test_class_file_missing(tmp_path):
    with pytest.raises(DataError, match="not found"):
        read_class_file(tmp_path / "classes.txt")
