"""Curves as inline SVG: sharp at any zoom, in the page's light or dark colours."""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup, escape

_WIDTH, _HEIGHT = 560, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 14, 14, 34
_MAX_POINTS = 240
_LABEL_ROOM = 100
_MARKED_POINTS = 30


@dataclasses.dataclass(frozen=True)
class Curve:
    """One line of a chart: a name for the legend and its points, in order of x."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


@dataclasses.dataclass(frozen=True)
class Guide:
    """A labelled straight line: a level to compare with, or where a stage begins."""

    label: str
    value: float


def is_number(value: Any) -> bool:
    """Whether a value from JSON is a finite number."""
    kind = isinstance(value, int | float) and not isinstance(value, bool)
    return kind and math.isfinite(value)


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round values that span [low, high]."""
    span = high - low or abs(high) or 1.0
    raw = span / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [k * step for k in range(first, max(last, first + 1) + 1)]


def format_tick(value: float) -> str:
    """A short tick label: `0`, `0.25`, `12k`, `2.5e-4`."""
    if value == 0:
        return "0"
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    if abs(value) < 0.001:
        digits, exponent = f"{value:.2e}".split("e")
        return f"{float(digits):g}e{int(exponent)}"
    return f"{float(f'{value:.4g}'):g}"


def line_chart(
    curves: Sequence[Curve],
    *,
    label: str,
    x_label: str = "step",
    levels: Sequence[Guide] = (),
    stages: Sequence[Guide] = (),
) -> Markup:
    """A line chart; long curves become bucket means on a band of their extremes.

    Args:
        curves: at most six; non-finite points are left out.
        label: what the chart shows, read by screen readers.
        x_label: below the axis.
        levels: dashed horizontal lines.
        stages: dotted vertical lines at their x.
    """
    curves = [_finite(curve) for curve in curves]
    xs = [v for curve in curves for v in curve.x]
    ys = [v for curve in curves for v in curve.y] + [g.value for g in levels]
    if not xs:
        return Markup('<p class="empty">No values recorded.</p>')
    y_ticks = nice_ticks(min(ys), max(ys))
    x_low, x_high = min(xs), max(xs)
    x_ticks = [
        t for t in nice_ticks(x_low, x_high, 6) if x_low <= t <= x_high or len(xs) == 1
    ]
    if all(float(x).is_integer() for x in xs):  # steps, rounds: nothing in between
        x_ticks = [t for t in x_ticks if float(t).is_integer()]
    scale = _Scale(x_low, x_high, y_ticks[0], y_ticks[-1])
    parts = [
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(label)}">'
    ]
    parts += _axes(scale, x_ticks, y_ticks, x_label)
    parts += _guides(scale, levels, stages)
    for index, curve in enumerate(curves, start=1):
        parts += _curve(scale, curve, index)
    return Markup("".join([*parts, "</svg>"]))


@dataclasses.dataclass(frozen=True)
class _Scale:
    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> float:
        span = self.x_high - self.x_low
        share = (value - self.x_low) / span if span else 0.5
        return round(_LEFT + share * (_WIDTH - _LEFT - _RIGHT), 1)

    def y(self, value: float) -> float:
        share = (value - self.y_low) / (self.y_high - self.y_low)
        return round(_HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM), 1)


def _finite(curve: Curve) -> Curve:
    points = [
        (x, y)
        for x, y in zip(curve.x, curve.y, strict=True)
        if math.isfinite(x) and math.isfinite(y)
    ]
    return Curve(curve.name, [p[0] for p in points], [p[1] for p in points])


def _axes(scale, x_ticks, y_ticks, x_label):
    floor, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = []
    for tick in y_ticks:
        y = scale.y(tick)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y}" y2="{y}"/>'
        )
        parts.append(
            f'<text x="{_LEFT - 8}" y="{y + 3.5}" text-anchor="end">'
            f"{format_tick(tick)}</text>"
        )
    for tick in x_ticks:
        parts.append(
            f'<text x="{scale.x(tick)}" y="{floor + 16}" text-anchor="middle">'
            f"{format_tick(tick)}</text>"
        )
    parts.append(
        f'<text x="{right}" y="{_HEIGHT - 3}" text-anchor="end">'
        f"{escape(x_label)}</text>"
    )
    return parts


def _guides(scale, levels, stages):
    floor, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = []
    for guide in stages:
        x = scale.x(guide.value)
        late = x > right - _LABEL_ROOM  # it would run out of the picture
        place = f'x="{x - 4}" text-anchor="end"' if late else f'x="{x + 4}"'
        parts.append(
            f'<line class="stage" x1="{x}" x2="{x}" y1="{_TOP}" y2="{floor}"/>'
            f'<text class="note" {place} y="{floor - 5}">{escape(guide.label)}</text>'
        )
    for guide in levels:
        y = scale.y(guide.value)
        parts.append(
            f'<line class="level" x1="{_LEFT}" x2="{right}" y1="{y}" y2="{y}"/>'
            f'<text class="note" x="{right}" y="{y - 4}" text-anchor="end">'
            f"{escape(guide.label)}</text>"
        )
    return parts


def _curve(scale, curve, index):
    buckets = _buckets(curve)
    parts = []
    if len(curve.x) > _MAX_POINTS:
        upper = [f"{scale.x(x)},{scale.y(top)}" for x, _, _, top in buckets]
        lower = [f"{scale.x(x)},{scale.y(low)}" for x, _, low, _ in reversed(buckets)]
        parts.append(
            f'<polygon class="band c{index}" points="{" ".join(upper + lower)}"/>'
        )
    points = " ".join(f"{scale.x(x)},{scale.y(mean)}" for x, mean, _, _ in buckets)
    parts.append(f'<polyline class="line c{index}" points="{points}"/>')
    if len(buckets) <= _MARKED_POINTS:
        parts += [
            f'<circle class="dot c{index}" cx="{scale.x(x)}" cy="{scale.y(y)}" r="3">'
            f"<title>{escape(curve.name)}: {y:.4g} at {x:g}</title></circle>"
            for x, y, _, _ in buckets
        ]
    return parts


def _buckets(curve: Curve) -> list[tuple[float, float, float, float]]:
    """(x, mean, min, max) of at most `_MAX_POINTS` runs of neighbouring points."""
    count = min(len(curve.x), _MAX_POINTS)
    edges = [round(i * len(curve.x) / count) for i in range(count + 1)] if count else []
    return [
        (
            math.fsum(curve.x[a:b]) / (b - a),
            math.fsum(curve.y[a:b]) / (b - a),
            min(curve.y[a:b]),
            max(curve.y[a:b]),
        )
        for a, b in itertools.pairwise(edges)
    ]
