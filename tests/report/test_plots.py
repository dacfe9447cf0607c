import xml.etree.ElementTree as ElementTree

import pytest

from sfda_jax.report.plots import Curve, Guide, format_tick, line_chart, nice_ticks


@pytest.mark.parametrize(
    ("low", "high"),
    [(0.0, 1.0), (41.3, 58.9), (-3e-4, 2.5e-4), (5.0, 5.0), (0.0, 0.0), (0.0, 62500.0)],
)
def test_ticks_span_the_values(low, high):
    ticks = nice_ticks(low, high)
    assert ticks[0] <= low and ticks[-1] >= high and 2 <= len(ticks) <= 8
    assert ticks == sorted(set(ticks))


def test_tick_labels_are_short():
    labels = [format_tick(v) for v in (0.0, 0.25, 40.0, 12000.0, 0.00025, 2500.5)]
    assert labels == ["0", "0.25", "40", "12k", "2.5e-4", "2500"]


@pytest.mark.parametrize("count", [1, 2, 30, 5000])
def test_chart_is_well_formed_and_bounded(count):
    xs = [float(i) for i in range(count)]
    ys = [float("nan") if i == 1 else i**0.5 for i in range(count)]
    svg = line_chart(
        [Curve("a < b", xs, ys), Curve("c", xs, xs)],
        label='loss & "more"',
        levels=[Guide("Source <only>", 3.0)],
        stages=[Guide("adapt", 0.0)],
    )
    root = ElementTree.fromstring(svg)
    assert root.get("aria-label") == 'loss & "more"'
    assert len(svg) < 60_000
    for line in root.iter("polyline"):
        for point in line.get("points").split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= 560 and 0 <= y <= 250


def test_rounds_are_whole_numbers():
    svg = line_chart([Curve("a", [1.0, 2.0, 3.0], [4.0, 5.0, 4.5])], label="rounds")
    ticks = [t.text for t in ElementTree.fromstring(svg).iter("text")]
    assert [t for t in ticks if t in ("1", "1.5", "2", "2.5", "3")] == ["1", "2", "3"]


def test_names_of_late_stages_stay_inside():
    curve = Curve("a", [1.0, 2.0, 3.0], [4.0, 5.0, 4.5])
    stages = [Guide("early", 1.0), Guide("late", 3.0)]
    svg = line_chart([curve], label="rounds", stages=stages)
    anchors = {
        text.text: text.get("text-anchor")
        for text in ElementTree.fromstring(svg).iter("text")
    }
    assert anchors["early"] is None and anchors["late"] == "end"


def test_nothing_recorded():
    nothing = Curve("a", [1.0], [float("nan")])
    assert "No values recorded" in line_chart([nothing], label="loss")
