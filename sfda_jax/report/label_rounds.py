"""Pseudo-labels round by round: what the log says of them, as tables."""

from collections.abc import Mapping, Sequence
from typing import Any

from sfda_jax.report.palette import class_space_of, hex_color
from sfda_jax.report.plots import is_number


def _quality(key: str):
    def value(record, name):
        return ((record.get("per_class") or {}).get(name) or {}).get(key)

    return value


def _threshold(record: Mapping[str, Any], name: str) -> Any:
    return (record.get("thresholds") or {}).get(name)


_KINDS = (
    ("Coverage per class, %", 1, _quality("coverage")),
    ("Accuracy per class, %", 1, _quality("accuracy")),
    ("Thresholds", 3, _threshold),
)


def label_rounds(metrics: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What was logged of each round's pseudo-labels, the last word on each.

    Args:
        metrics: the run's log, one mapping per line.

    Returns:
        The `pseudo_labels` records in the run's order; with `number` (over all stages),
        `counted` (in its stage), `title`, and the `lowest` and `highest` threshold.
    """
    records = [r for r in metrics if r.get("event") == "pseudo_labels"]
    found = {(r.get("stage"), r.get("round")): r for r in records}
    stages = {stage for stage, _ in found}
    rounds = []
    for number, ((stage, round_), record) in enumerate(found.items(), start=1):
        counted = f"{round_ + 1}" if isinstance(round_, int) else f"{number}"
        title = counted if len(stages) == 1 else f"{stage} {counted}"
        thresholds = (record.get("thresholds") or {}).values()
        thresholds = [value for value in thresholds if is_number(value)]
        rounds.append(
            {
                **record,
                "number": number,
                "title": title,
                "counted": counted,
                "lowest": min(thresholds, default=None),
                "highest": max(thresholds, default=None),
            }
        )
    return rounds


def label_tables(rounds: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Per class and round: coverage, accuracy, thresholds, each where it is known.

    Args:
        rounds: of `label_rounds`.

    Returns:
        Tables with `title`, `digits`, and `rows` of `name`, `color` and a value per
        round in `values`.
    """
    names = list(dict.fromkeys(n for r in rounds for n in r.get("per_class") or {}))
    space = class_space_of(names)
    tables = []
    for title, digits, value in _KINDS:
        rows = [
            {
                "name": name,
                "color": hex_color(space, name) if space else None,
                "values": [value(record, name) for record in rounds],
            }
            for name in names
        ]
        if any(is_number(v) for row in rows for v in row["values"]):
            tables.append({"title": title, "digits": digits, "rows": rows})
    return tables
