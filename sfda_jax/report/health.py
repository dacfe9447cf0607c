"""The health of the adapting networks: signals over the steps, warnings, rollbacks."""

from collections.abc import Mapping, Sequence
from typing import Any

from sfda_jax.report.plots import Curve, Guide, is_number, line_chart

_CHARTS = (
    ("Classes that vanished, churn and drift", ("vanished", "churn", "drift")),
    ("Effective number of classes", ("effective_classes",)),
    ("Entropy, of its maximum", ("entropy",)),
    ("Soft neighbourhood density (DTU)", ("soft_nd",)),
    ("Peak certainty (DTU)", ("ent",)),
)
_NAMES = {
    "vanished": "share of the classes that vanished",
    "effective_classes": "effective number of classes",
    "churn": "share of pixels that changed class",
    "drift": "drift of the class shares",
    "entropy": "entropy",
}


def health_view(metrics: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """What the page shows of the health monitor; None where it never looked.

    Args:
        metrics: the run's log, one mapping per line.

    Returns:
        `charts` (`title`, `svg`, `legend`), `warnings` (`stage`, `round` from 1,
        `step`, `signal`, `value`, `side`, `bound`), `rollbacks` (`stage`, `round`,
        `step`, `to_round`, `to_step`), the number of `looks`.
    """
    looks = [r for r in metrics if r.get("event") == "health"]
    if not looks:
        return None
    return {
        "looks": len(looks),
        "charts": [_chart(title, names, looks) for title, names in _CHARTS],
        "warnings": [
            {
                **_place(record),
                **warning,
                "signal": _NAMES.get(warning["signal"], warning["signal"]),
            }
            for record in looks
            for warning in record.get("warnings") or ()
        ],
        "rollbacks": [
            {**_place(r), "to_round": r["to_round"] + 1, "to_step": r["to_step"]}
            for r in metrics
            if r.get("event") == "rollback"
        ],
    }


def _place(record: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "stage": record["stage"],
        "round": record["round"] + 1,
        "step": record["step"],
    }


def _chart(
    title: str, names: Sequence[str], looks: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    curves = []
    for name in names:
        points = [(r["tick"], r["signals"].get(name)) for r in looks]
        points = [(float(x), float(y)) for x, y in points if is_number(y)]
        curves.append(Curve(name, [p[0] for p in points], [p[1] for p in points]))
    first = {}
    for record in looks:
        first.setdefault(record["stage"], float(record["tick"]))
    stages = [Guide(stage, x) for stage, x in first.items()]
    svg = line_chart(curves, label=title, stages=stages if len(stages) > 1 else [])
    return {
        "title": title,
        "svg": svg,
        "legend": list(names) if len(names) > 1 else [],
    }
