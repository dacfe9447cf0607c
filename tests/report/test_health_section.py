"""The report's section on health."""

import json
import re

import pytest

from sfda_jax.report.health import health_view
from sfda_jax.report.html import build_report
from tests.report.fake_run import write_fake_run


def look(tick, step, *warnings, **signals):
    given = {"entropy": 0.2, "effective_classes": 5.0, "vanished": 0.0, "drift": 0.01}
    given |= {"churn": None if step == 0 else 0.02, "soft_nd": 4.0, "ent": 0.6}
    return {
        "tick": tick,
        "event": "health",
        "stage": "dtst",
        "round": 1,
        "step": step,
        "network": "teacher",
        "signals": given | signals,
        "warnings": list(warnings),
    }


WARNING = {"signal": "vanished", "value": 0.4, "bound": 0.34, "side": "above"}
LOOKS = [look(900, 0), look(1000, 100), look(1100, 200, WARNING, vanished=0.4)]
ROLLBACK = {
    **{"tick": 1100, "event": "rollback", "stage": "dtst", "round": 1},
    **{"step": 200, "to_round": 1, "to_step": 100},
}


def test_view():
    view = health_view([{"tick": 1, "loss": 0.5}, *LOOKS, ROLLBACK])
    assert view["looks"] == 3
    (warning,) = view["warnings"]
    assert (warning["stage"], warning["round"], warning["step"]) == ("dtst", 2, 200)
    assert warning["signal"] == "share of the classes that vanished"
    assert (warning["value"], warning["bound"]) == (0.4, 0.34)
    (rollback,) = view["rollbacks"]
    assert (rollback["round"], rollback["to_round"], rollback["to_step"]) == (2, 2, 100)
    first = view["charts"][0]
    assert first["legend"] == ["vanished", "churn", "drift"]
    assert "0.4 at 1100" in first["svg"] and "churn: 0.02 at 1000" in first["svg"]
    assert "at 900" not in first["svg"].split("churn")[1].split("drift")[0]


def test_nobody_looked():
    assert health_view([{"tick": 1, "loss": 0.5}]) is None


@pytest.mark.parametrize("warned", [True, False])
def test_page(tmp_path, warned):
    run_dir = write_fake_run(tmp_path)
    added = [*LOOKS, ROLLBACK] if warned else LOOKS[:2]
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in added)
    page = build_report(run_dir).read_text("utf-8")
    section = page.split("<h2>Health</h2>")[1].split("<h2>Training</h2>")[0]
    text = re.sub(r"<[^>]+>", " ", section)
    assert section.count("<svg") == 5
    assert ("Nothing unusual was seen." in text) != warned
    if warned:
        assert "ended in round 2 at step 200" in text and "above 0.340" in text


def test_no_section_without_looks(tmp_path):
    page = build_report(write_fake_run(tmp_path)).read_text("utf-8")
    assert "<h2>Health</h2>" not in page
