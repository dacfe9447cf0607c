import json
import re

import pytest

from sfda_jax.errors import DataError
from sfda_jax.report.html import build_report, read_metrics
from sfda_jax.report.label_rounds import label_rounds, label_tables
from tests.report.fake_run import CLASSES, round_record, write_fake_run


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return write_fake_run(tmp_path_factory.mktemp("my runs") / "α run")


@pytest.fixture(scope="module")
def page(run_dir):
    return build_report(run_dir).read_text("utf-8")


def test_one_file_without_links(page):
    assert not re.findall(r'(?:href|src)="(?!data:)', page)
    assert "http" not in page and "<script" not in page and "url(" not in page
    assert page.count("data:image/png;base64,") == 4


def test_everything_is_escaped(page):
    assert "g2c &lt;demo&gt;" in page and "<demo>" not in page


def test_shows_the_headline_with_subset_and_network(page, run_dir):
    summary = json.loads((run_dir / "summary.json").read_text())
    adapted = f"{summary['target_mIoU']['adapted']:.1f}"
    assert f'<div class="figure">{adapted}<small> %</small></div>' in page
    assert "mIoU19 after adaptation" in page and "teacher on real_val" in page
    assert "upper bound for model selection" in page
    for text in (*CLASSES.names, *CLASSES.subsets, "AdaBN", "1 h 06 min", "0.10.2"):
        assert text in page


def test_names_the_list_of_training_images(page):
    text = re.sub(r"<[^>]+>", "", page)
    assert "list gta5_iast: 24941 listed, 62 published defects left out" in text
    assert "24879 used" in text and "partial copy" not in text
    assert "a1b2c3d4a1b2c3d4" in text and "e5f60718e5f60718" in text


def test_charts_and_tables_are_there(page):
    titles = re.findall(r"<h3>(.*?)</h3>", page)
    assert "mIoU19 on real_val, %" in titles and "Pseudo-labels, %" in titles
    assert titles.index("loss") < titles.index("loss_negative") < titles.index("lr")
    assert page.count("<svg") == 6


def _table(page, title):
    card = page.split(f"<h3>{title}</h3>")[1].split("</table>")[0]
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in card.split("<tr>")]
    return [[re.sub(r"<[^>]+>", "", cell) for cell in row] for row in rows[1:]]


def test_rounds_of_pseudo_labels(page):
    rounds = _table(page, "Rounds")
    assert [row[:4] for row in rounds[1:]] == [
        ["adapt", "1", "38.0", "92.0"],
        ["adapt", "2", "54.0", "90.0"],
        ["adapt", "3", "71.5", "88.0"],
    ]
    lines = [round_record(index, 0) for index in range(3)]
    for title, digits, value in (
        ("Coverage per class, %", 1, lambda r, n: r["per_class"][n]["coverage"]),
        ("Accuracy per class, %", 1, lambda r, n: r["per_class"][n]["accuracy"]),
        ("Thresholds", 3, lambda r, n: r["thresholds"][n]),
    ):
        header, *rows = _table(page, title)
        assert header == ["Round", "1", "2", "3"]
        assert [row[0] for row in rows] == list(CLASSES.names)
        assert rows[6][1:] == [
            f"{value(r, CLASSES.names[6]):.{digits}f}" for r in lines
        ]
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", page)
    assert captions[1:] == [f"Pseudo-labels of adapt, round {n}" for n in (1, 2, 3)]


def test_rounds_of_several_stages_are_told_apart():
    names = {"a": {"coverage": 50.0, "accuracy": None}}
    lines = [
        {"event": "pseudo_labels", "stage": stage, "round": 0, "per_class": names}
        for stage in ("first", "second")
    ]
    rounds = label_rounds(lines)
    assert [row["title"] for row in rounds] == ["first 1", "second 1"]
    (table,) = label_tables(rounds)  # neither accuracy nor thresholds are known
    assert table["title"] == "Coverage per class, %"
    assert table["rows"][0]["values"] == [50.0, 50.0]


def bare(folder, **summary):
    folder.mkdir(exist_ok=True)
    (folder / "summary.json").write_text(json.dumps(summary))
    return build_report(folder).read_text("utf-8")


def test_a_bare_summary_is_enough(tmp_path):
    assert "mIoU after adaptation" in bare(tmp_path)


def test_classes_outside_the_headline_are_marked(tmp_path):
    names = [n for n in CLASSES.names if n not in ("terrain", "truck", "train")]
    page = bare(
        tmp_path,
        subset="mIoU13",
        target_mIoU={"dtst": 40.0, "adapted": None},
        per_class={"dtst": dict.fromkeys(names, 3.0), "adapted": {}},
        source_val_mIoU={"source_only": 61.0},
    )
    assert page.count('<span class="quiet">○</span>') == 3
    assert "do not count in mIoU13" in page and "scores 61.0" in page


def test_dice_where_the_summary_has_it(tmp_path, page):
    polyp = {"iou": 30.0, "dice": 46.15, "images": 7}
    dice = bare(
        tmp_path,
        subset="IoU_polyp",
        target_mIoU={"dtst": 40.0, "adapted": 41.0},
        dice={"dtst": {"polyp": 50.0}, "adapted": {"polyp": 51.25}},
        mean_dice={"dtst": {"mIoU2": 60.0}, "adapted": {"mIoU2": None}},
        image_means={"dtst": {"polyp": polyp}, "adapted": {"polyp": polyp}},
    )
    assert _table(dice, "Dice, %") == [
        ["", "dtst", "Adapted"],
        ["polyp", "50.00", "51.25"],
        ["mean of mIoU2", "60.00", "–"],
    ]
    assert _table(dice, "Means over images, %")[1:] == [
        ["polyp, IoU", "30.00", "30.00"],
        ["polyp, Dice", "46.15", "46.15"],
    ]
    assert "Dice" not in page


def test_metrics_survive_a_cut_line(run_dir, tmp_path):
    records = read_metrics(run_dir / "metrics.jsonl")
    assert len(records) > 900 and all(isinstance(r, dict) for r in records)
    assert read_metrics(tmp_path / "none.jsonl") == []


@pytest.mark.parametrize(("text", "expected"), [("{", "not valid"), ("[]", "a list")])
def test_damaged_summary(tmp_path, text, expected):
    (tmp_path / "summary.json").write_text(text)
    with pytest.raises(DataError, match=expected):
        build_report(tmp_path)


def test_no_run(tmp_path):
    with pytest.raises(DataError, match=r"No summary\.json"):
        build_report(tmp_path)
