"""The report of a run: one HTML file that needs nothing else."""

import base64
import importlib.resources
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jinja2

from sfda_jax.errors import DataError
from sfda_jax.report.dice import dice_tables
from sfda_jax.report.forgetting import forgetting_view
from sfda_jax.report.health import health_view
from sfda_jax.report.label_rounds import label_rounds, label_tables
from sfda_jax.report.palette import class_space_of, hex_color
from sfda_jax.report.plots import Curve, Guide, is_number, line_chart
from sfda_jax.version import __version__

FILE_NAME = "report.html"
ROUND_PANEL = "panels.png"
"""The picture of a round's pseudo-labels, in the round's folder."""

VARIANTS: Mapping[str, str] = {
    "source_only": "Source only",
    "adabn": "AdaBN",
    "adapted": "Adapted",
    "oracle_best": "Oracle best",
}
"""Usual keys of the summary's result tables → how the report names them."""

_MAX_PANELS, _MAX_ROUND_PANELS = 24, 12
_NO_SCALAR = frozenset(("tick", "stage", "round", "step", "wall", "event", "epoch"))


def build_report(run_dir: pathlib.Path) -> pathlib.Path:
    """Writes `report.html` into a run directory and returns its path.

    Reads `summary.json`; and, where they are, `metrics.jsonl`, `panels/*.png`, every
    round's `panels.png`, `config.json` and `environment.json`. Pictures are embedded,
    nothing is linked.

    Args:
        run_dir: a finished run.

    Raises:
        DataError: no summary, a damaged one, or a report that cannot be written.
    """
    run_dir = pathlib.Path(run_dir)
    summary = _read_json(run_dir / "summary.json")
    if summary is None:
        raise DataError(
            f"No summary.json in {run_dir}: expected the directory of a finished run.",
            hint="Run the training command again; it resumes and writes the summary.",
        )
    panels = sorted((run_dir / "panels").glob("*.png"))
    rounds = sorted(run_dir.glob(f"stages/*/rounds/*/{ROUND_PANEL}"))
    page = render_report(
        summary,
        read_metrics(run_dir / "metrics.jsonl"),
        panels={path.stem: path.read_bytes() for path in panels[-_MAX_PANELS:]},
        panels_left_out=max(0, len(panels) - _MAX_PANELS),
        round_panels={
            _round_caption(path): path.read_bytes()
            for path in rounds[-_MAX_ROUND_PANELS:]
        },
        config=_read_json(run_dir / "config.json"),
        environment=_read_json(run_dir / "environment.json"),
    )
    path, temporary = run_dir / FILE_NAME, run_dir / f".{FILE_NAME}.tmp"
    try:
        temporary.write_text(page, "utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise DataError(
            f"Cannot write {path}: {error.strerror or error}.",
            hint="Check the run directory's permissions and free space.",
        ) from error
    return path


def render_report(
    summary: Mapping[str, Any],
    metrics: Sequence[Mapping[str, Any]],
    *,
    panels: Mapping[str, bytes],
    panels_left_out: int = 0,
    round_panels: Mapping[str, bytes] = MappingProxyType({}),
    config: Mapping[str, Any] | None = None,
    environment: Mapping[str, Any] | None = None,
) -> str:
    """The report as HTML text.

    Args:
        summary: the run's results (percent, None where undefined).
        metrics: the run's log, one mapping per line.
        panels: caption → PNG bytes.
        panels_left_out: panels on disk that are not shown.
        round_panels: caption → PNG bytes, of the rounds' pseudo-labels.
        config: the recipe as run.
        environment: devices, revision and the like.
    """
    pages = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    pages.filters.update(
        num=_number, signed=_signed, duration=_duration, pretty=_pretty
    )
    template = pages.from_string(
        importlib.resources.files("sfda_jax.report")
        .joinpath("template.html")
        .read_text("utf-8")
    )
    headline = str(summary.get("headline") or summary.get("subset") or "mIoU")
    labels = label_rounds(metrics)
    return template.render(
        summary=summary,
        headline=headline,
        source_score=_source_score(summary),
        network=str(summary.get("network") or "network"),
        variants=_variants(summary, headline),
        class_table=_class_table(summary, headline),
        forgetting=forgetting_view(summary, headline),
        dice_tables=dice_tables(summary, _title),
        subset_names=_subset_names(summary),
        result_charts=_result_charts(summary, metrics, headline),
        health=health_view(metrics),
        training_charts=_training_charts(metrics),
        label_rounds=labels,
        label_charts=_label_charts(labels),
        label_tables=label_tables(labels),
        panels=[(_caption(name), _embedded(png)) for name, png in panels.items()],
        round_panels=[(name, _embedded(png)) for name, png in round_panels.items()],
        panels_left_out=panels_left_out,
        config=config,
        environment=environment,
        version=__version__,
    )


def read_metrics(path: pathlib.Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`; an unfinished last line is left out."""
    records = []
    try:
        lines = path.read_text("utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return records
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            records.append(record)
    return records


def _read_json(path: pathlib.Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DataError(
            f"{path} is not valid JSON: {error}.",
            hint="Run the training command again; it rewrites the file.",
        ) from error
    if not isinstance(value, dict):
        raise DataError(
            f"{path} holds a {type(value).__name__}; expected a JSON object.",
            hint="Run the training command again; it rewrites the file.",
        )
    return value


def _number(value: Any, digits: int = 1) -> str:
    return f"{value:.{digits}f}" if is_number(value) else "–"


def _signed(value: Any, digits: int = 1) -> str:
    if not is_number(value):
        return "–"
    text = f"{abs(value):.{digits}f}"
    return text if not float(text) else ("+" if value > 0 else "−") + text


def _duration(seconds: Any) -> str:
    if not is_number(seconds):
        return "–"
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


def _difference(after: Any, before: Any) -> float | None:
    return after - before if is_number(after) and is_number(before) else None


def _caption(name: str) -> str:
    """A panel's file name as words; nothing where it is only a number."""
    return "" if name.isdigit() else name.replace("_", " ")


def _round_caption(path: pathlib.Path) -> str:
    """Stage and round of a picture in a round's folder, counted from 1."""
    stage, round_ = path.parents[2].name, path.parent.name
    number = int(round_) + 1 if round_.isdigit() else round_
    return f"{stage.partition('-')[2] or stage}, round {number}"


def _embedded(png: bytes) -> str:
    return base64.b64encode(png).decode("ascii")


def _source_score(summary: Mapping[str, Any]) -> Any:
    """The source network's score on its own validation split, first of several."""
    score = summary.get("source_val_mIoU")
    return next(iter(score.values()), None) if isinstance(score, Mapping) else score


def _title(key: str) -> str:
    return VARIANTS.get(key, key.replace("_", " "))


def _variants(summary: Mapping[str, Any], headline: str) -> list[dict[str, Any]]:
    """The networks compared, in the run's order; gains are over the first."""
    results = summary.get("target_mIoU") or {}
    subsets = summary.get("subsets") or {}
    first = next(iter(results), None)
    return [
        {
            "key": key,
            "title": _title(key),
            "value": value,
            "gain": None if key == first else _difference(value, results[first]),
            "subsets": {headline: value} | (subsets.get(key) or {}),
        }
        for key, value in results.items()
    ]


def _subset_names(summary: Mapping[str, Any]) -> list[str]:
    subsets = summary.get("subsets") or {}
    return list(dict.fromkeys(name for row in subsets.values() for name in row or {}))


def _class_table(summary: Mapping[str, Any], headline: str) -> dict[str, Any]:
    """Column titles and rows of the per-class table; first and last column barred."""
    tables = {
        key: table
        for key, table in (summary.get("per_class") or {}).items()
        if table and key != "oracle_best"
    }
    names = list(dict.fromkeys(name for table in tables.values() for name in table))
    space = class_space_of(names)
    counted = names
    if space:
        names = list(space.names)
        ids = space.subsets.get(headline, range(space.num_classes))
        counted = [names[i] for i in ids]
    rows = []
    for name in names:
        values = [table.get(name) for table in tables.values()]
        rows.append(
            {
                "name": name,
                "color": hex_color(space, name) if space else None,
                "counted": name in counted,
                "values": values,
                "gain": _difference(values[-1], values[0]),
            }
        )
    return {"titles": [_title(key) for key in tables], "rows": rows}


def _curve(name: str, records: Sequence[Mapping], value: Any) -> Curve:
    points = [(r.get("tick"), value(r)) for r in records]
    points = [(float(x), float(y)) for x, y in points if is_number(x) and is_number(y)]
    return Curve(name, [p[0] for p in points], [p[1] for p in points])


def _stages(records: Sequence[Mapping[str, Any]]) -> list[Guide]:
    """Where each stage begins; nothing where there is one stage only."""
    first = {}
    for record in records:
        if is_number(record.get("tick")) and record.get("stage"):
            first.setdefault(str(record["stage"]), record["tick"])
    guides = [Guide(stage, float(tick)) for stage, tick in first.items()]
    return guides if len(guides) > 1 else []


def _result_charts(summary, metrics, headline) -> list[dict[str, Any]]:
    """Evaluation curves: one chart per split, one line per network."""
    evaluations = [r for r in metrics if r.get("event") == "eval"]
    splits = dict.fromkeys(str(r.get("split", "")) for r in evaluations)
    charts = []
    for split in splits:
        rows = [r for r in evaluations if str(r.get("split", "")) == split]
        networks = dict.fromkeys(str(r.get("network", "")) for r in rows)
        curves = [
            _curve(
                network,
                [r for r in rows if str(r.get("network", "")) == network],
                lambda r: (r.get("mIoU") or {}).get(headline),
            )
            for network in networks
        ]
        levels = []
        # A continual run has a table of its own networks.
        if split == summary.get("target_split") and "continual" not in summary:
            results = summary.get("target_mIoU") or {}
            levels = [
                Guide(_title(key), float(value))
                for key, value in results.items()
                if key not in ("adapted", "oracle_best") and is_number(value)
            ]
        charts.append(
            _chart(f"{headline} on {split}, %", curves, levels, _stages(rows))
        )
    return charts


def _training_charts(metrics) -> list[dict[str, Any]]:
    """One chart per logged scalar, losses first."""
    steps = [r for r in metrics if not r.get("event")]
    names = dict.fromkeys(
        key
        for record in steps
        for key, value in record.items()
        if key not in _NO_SCALAR and is_number(value)
    )
    order = sorted(names, key=lambda n: (n != "loss", "loss" not in n, n == "lr"))
    charts = []
    for name in order:
        rows = [r for r in steps if name in r]
        curve = _curve(name, rows, lambda r, name=name: r.get(name))
        charts.append(_chart(name, [curve], [], _stages(rows)))
    return charts


def _label_charts(rounds) -> list[dict[str, Any]]:
    """Coverage and accuracy over the rounds of all stages."""
    places = [{**record, "tick": record["number"]} for record in rounds]
    curves = [
        _curve(title, places, lambda r, key=key: r.get(key))
        for key, title in (("coverage", "Coverage"), ("accuracy", "Accuracy"))
    ]
    curves = [curve for curve in curves if curve.x]
    if not curves:
        return []
    stages = _stages(places)
    return [_chart("Pseudo-labels, %", curves, [], stages, x_label="round")]


def _chart(title, curves, levels, stages, *, x_label="step") -> dict[str, Any]:
    svg = line_chart(curves, label=title, x_label=x_label, levels=levels, stages=stages)
    legend = [curve.name for curve in curves] if len(curves) > 1 else []
    return {"title": title, "svg": svg, "legend": legend}
