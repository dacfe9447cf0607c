import dataclasses
import doctest
import pathlib

import numpy as np
import pytest

from sfda_jax.data import lists
from sfda_jax.data.access import DataAccess
from sfda_jax.data.lists import ExampleList, load_list, names_hash, select
from sfda_jax.errors import ConfigError, DataError
from sfda_jax.registry import resolve
from sfda_jax.tasks import Domain, Task, class_space

PUBLISHED = sorted(lists._table())
SCENES = "24x48-4"


def _access(tmp_path, *, manual_dirs=None, partial=False, **source):
    domain = {"train": "train", "eval": "", **source}
    target = Domain(dataset="scenes", train="real_train", eval="", variant=SCENES)
    task = Task(
        name="toy",
        source=Domain(**domain),
        target=target,
        classes=class_space("cityscapes19"),
        headline="mIoU19",
    )
    return DataAccess(
        task=task,
        data_dir=str(tmp_path),
        manual_dirs=manual_dirs or {},
        partial=partial,
    )


def _used_lists(access):
    task = access.task
    return access.used_lists({"source": task.source, "target": task.target})


def _scenes(tmp_path, train_list):
    return _access(
        tmp_path,
        dataset="scenes",
        train="game_train",
        variant=SCENES,
        train_list=str(train_list),
    )


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_list(name):
    """Names and hashes are intact; lists of all have the count of the builder."""
    wanted = load_list(name)
    builder = resolve("datasets", wanted.dataset)
    if wanted.names is None:
        parts = wanted.split.split("+")
        count = sum(builder.published[part] for part in parts)
        assert wanted.count == count - len(wanted.without)
    else:
        assert wanted.count == len(wanted.names)
        assert wanted.sha256 == names_hash(wanted.names)
    assert wanted.used_by and wanted.source


def test_what_the_gta5_lists_leave_out():
    every = load_list("gta5_all").names
    assert min(every) == "00001" and max(every) == "24966" and len(every) == 24966
    iast = every - load_list("gta5_iast").names
    assert len(iast) == 25 and {"02154", "12054"} <= iast
    defects = every - load_list("gta5_sound").names
    mismatched = {f"{i}" for i in range(20801, 20861)}
    assert defects == {"15188", "17705"} | mismatched
    crst = load_list("gta5_crst").names
    assert len(every - crst) == 4982
    assert defects & crst == mismatched


@pytest.mark.parametrize(
    ("name", "listed", "left_out"),
    [
        ("gta5_all", 24966, 62),
        ("gta5_sound", 24904, 0),
        ("gta5_iast", 24941, 62),
        ("gta5_crst", 19984, 60),
    ],
)
def test_a_complete_gta5(name, listed, left_out):
    prepared = sorted(load_list("gta5_sound").names)
    defects = load_list("gta5_all").names - set(prepared)
    found = select(load_list(name), prepared, defects=defects)
    assert (found.listed, found.defects, found.absent) == (listed, left_out, 0)
    assert len(found.positions) == listed - left_out
    assert {prepared[i] for i in found.positions} == load_list(name).names - defects


def test_lists_as_recorded(shared_data):
    """The committed names are those recorded from the published systems."""
    golden = shared_data.parent / "golden"
    recorded = golden / "cbst_crst" / "lists" / "cityscapes_train_505.txt"
    rows = recorded.read_text().splitlines()
    names = [row for row in rows if row and row[0] != "#"]
    assert load_list("cityscapes_cbst_505").sha256 == names_hash(names)
    orders = np.load(golden / "iast" / "dataset_lists.npz")
    for name, key, digits in (
        ("gta5_iast", "gta5_ids_in_list_order", 5),
        ("synthia_all", "synthia_ids_in_list_order", 7),
    ):
        ids = [f"{number:0{digits}d}" for number in orders[key]]
        assert load_list(name).sha256 == names_hash(ids)


def test_changed_names_are_refused(monkeypatch):
    entry = {**lists._table()["gta5_iast"], "without": ["02154..02157"]}
    monkeypatch.setattr(lists, "_table", lambda: {"gta5_mine": entry})
    with pytest.raises(DataError, match=r"24962 names of sha256 .* expected 24941"):
        load_list("gta5_mine")


def test_unknown_list():
    with pytest.raises(ConfigError, match="Did you mean 'gta5_iast'"):
        load_list("gta5_ist")


def test_names_are_hashed_in_one_order():
    assert names_hash(["b", "a"]) == names_hash(["a", "b"]) != names_hash(["ab"])


FIVE = [f"{i:02d}" for i in range(5)]


def _named(*names):
    return ExampleList(name="n", count=len(names), names=frozenset(names))


def test_selection_keeps_file_order():
    found = select(_named("03", "01"), FIVE)
    assert found.positions.tolist() == [1, 3]
    assert (found.listed, found.defects, found.absent) == (2, 0, 0)
    assert found.used_sha256 == names_hash(["01", "03"])
    assert found.record()["used"] == 2


def test_defects_are_left_out_and_other_gaps_refused():
    wanted = _named("01", "02", "97", "98")
    found = select(wanted, FIVE, defects=["97", "98", "99"])
    assert (found.positions.tolist(), found.defects) == ([1, 2], 2)
    with pytest.raises(DataError, match=r"1 of them .*for instance 98.*partial=true"):
        select(wanted, FIVE, defects=["97"])
    found = select(wanted, FIVE, defects=["97"], partial=True)
    assert (len(found.positions), found.defects, found.absent) == (2, 1, 1)


def test_list_of_all():
    wanted = ExampleList(
        name="n", dataset="d", split="s", count=4, without=frozenset({"02"})
    )
    assert select(wanted, FIVE).positions.tolist() == [0, 1, 3, 4]
    more = dataclasses.replace(wanted, count=6)
    with pytest.raises(DataError, match="2 of them are neither"):
        select(more, FIVE, defects=["01"])
    assert select(more, FIVE, defects=["98", "99"]).defects == 2
    assert select(more, FIVE, partial=True).absent == 2
    with pytest.raises(DataError, match=r"all 3 examples .* and 4 are prepared"):
        select(dataclasses.replace(wanted, count=3), FIVE)


@pytest.mark.parametrize("partial", [False, True])
def test_nothing_selected_is_an_error(partial):
    with pytest.raises(DataError, match="neither prepared"):
        select(_named("x", "y"), FIVE, partial=partial)


def test_users_list(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("# mine\nimages/game_0000003.png game_0000001\n\n007..009\n")
    assert load_list(str(path)).names == {
        *("game_0000003", "game_0000001", "007", "008", "009")
    }
    twice = tmp_path / "twice.txt"
    twice.write_text("a\nb\na.png\n")
    with pytest.raises(ConfigError, match=r"twice.txt names 'a' twice"):
        load_list(str(twice))
    with pytest.raises(ConfigError, match="cannot be read"):
        load_list(str(tmp_path / "none.txt"))


def test_access_reads_the_listed_examples(tmp_path):
    path = tmp_path / "chosen.txt"
    path.write_text("game_0000003 game_0000001")
    access = _scenes(tmp_path, path)
    source = access.train("source")
    assert [record["id"] for record in source] == ["game_0000001", "game_0000003"]
    assert "label" in source[0]
    with pytest.raises(IndexError):
        source[2]
    assert len(dataclasses.replace(access, limit=1).train("source")) == 1
    record = _used_lists(access)["source"]
    assert (record["list"], record["listed"], record["used"]) == (str(path), 2, 2)
    assert record["used_sha256"] == names_hash(["game_0000001", "game_0000003"])
    whole = _used_lists(access)["target"]
    assert (whole["list"], whole["used"]) == ("", 4)
    assert lists.describe("target", whole).startswith(
        "target: scenes real_train, all 4 prepared examples (sha256 "
    )


def test_list_of_another_dataset_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"of gta5 train, and scenes game_train"):
        _scenes(tmp_path, "gta5_all").train("source")


def test_partial_copy(shared_data, tmp_path):
    """Three of the samples, one of them a published defect."""
    folder = shared_data / "formats" / "gta5"
    names = sorted(path.stem for path in (folder / "images").iterdir())
    gta5 = {
        "dataset": "gta5",
        "train_list": "gta5_all",
        "manual_dirs": {"gta5": str(folder)},
    }
    with pytest.raises(DataError, match=r"has 24966 examples.*partial=true"):
        _access(tmp_path, **gta5).train("source")
    access = _access(tmp_path, **gta5, partial=True)
    record = _used_lists(access)["source"]
    used = [r["id"] for r in access.train("source")]
    assert 0 < record["used"] == len(used) <= len(names)
    assert record["used"] + record["defects"] + record["absent"] == 24966
    text = lists.describe("source", record)
    assert "list gta5_all: 24966 listed (sha256 ffa46cddece6)" in text
    assert "not in this partial copy" in text


def test_docstring_example():
    assert doctest.testmod(lists).failed == 0


def test_lists_are_packaged():
    """Everything the table names lies beside it, under a suffix that is packaged."""
    folder = pathlib.Path(str(lists._FOLDER))
    text = (folder.parents[1] / "pyproject.toml").read_text()
    for path in folder.iterdir():
        assert f'"splits/*{path.suffix}"' in text
