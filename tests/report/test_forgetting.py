"""The forgetting table of a continual run in the report."""

import json

import pytest

from sfda_jax.report.forgetting import forgetting_view
from sfda_jax.report.html import render_report


@pytest.fixture
def summary():
    return {
        "name": "sequence",
        "subset": "mIoU19",
        "target_mIoU": {"source_only": 60.0, "adapted": 57.0},
        "continual": {
            "domains": ["day_test", "<haze>"],
            "stages": [
                {"name": "source", "adapts_to": None},
                {"name": "haze", "adapts_to": "<haze>"},
                {"name": "day", "adapts_to": "day_test"},
            ],
            "mIoU": [[60.04, 20.0], [55.0, 47.12], [57.0, None]],
            "forgetting": {"day_test": 3.04, "<haze>": -1.5},
            "mean_forgetting": -1.5,
            "mean": 57.0,
        },
    }


def test_table_chart_and_means(summary):
    page = render_report(summary, [], panels={})
    assert "Domains one after the other" in page
    assert "&lt;haze&gt;" in page and "<haze>" not in page
    assert "<b>47.1</b>" in page and "<b>57.0</b>" in page and "<b>60.0</b>" not in page
    assert '<span class="bad">+3.0</span>' in page
    assert '<span class="good">−1.5</span>' in page
    assert "Mean forgetting −1.5; mean of all domains after the last stage 57.0" in page
    svg = forgetting_view(summary, "mIoU19")["svg"]
    assert svg.count("<polyline") == 2 and svg.count("<circle") == 5


def test_too_many_domains_for_a_chart(summary):
    names = [f"city{i}_val" for i in range(7)]
    record = summary["continual"]
    record |= {"domains": names, "forgetting": dict.fromkeys(names, 1.0)}
    record["mIoU"] = [[10.0] * 7] * 3
    view = forgetting_view(summary, "mIoU19")
    assert view["svg"] is None and len(view["rows"][0]["cells"]) == 7
    assert "city6_val" in render_report(summary, [], panels={})


def test_ordinary_runs_have_none(summary):
    del summary["continual"]
    assert forgetting_view(summary, "mIoU19") is None
    page = render_report(json.loads(json.dumps(summary)), [], panels={})
    assert "Domains one after the other" not in page
