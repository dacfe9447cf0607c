"""The forgetting table of a continual run: every domain's score after every stage."""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from sfda_jax.report.plots import Curve, is_number, line_chart

_MAX_CURVES = 6


def forgetting_view(summary: Mapping[str, Any], headline: str) -> dict[str, Any] | None:
    """What the page shows of a continual run; None of another.

    Args:
        summary: the run's results; `continual` is what
            `train.continual.continual_record` returns.
        headline: name of the scores.

    Returns:
        `domains`, `rows` (`name`, `cells` of `value`, `own`: the domain this stage
        adapted to), `forgetting` per domain, `mean_forgetting`, `mean`, `svg` (None
        where there are more curves than colours).
    """
    record = summary.get("continual")
    if not record:
        return None
    domains = list(record["domains"])
    rows = [
        {
            "name": stage["name"],
            "cells": [
                {"value": value, "own": title == stage["adapts_to"]}
                for title, value in zip(domains, scores, strict=True)
            ],
        }
        for stage, scores in zip(record["stages"], record["mIoU"], strict=True)
    ]
    return {
        "domains": domains,
        "rows": rows,
        "forgetting": [record["forgetting"][title] for title in domains],
        "mean_forgetting": record["mean_forgetting"],
        "mean": record["mean"],
        "svg": _chart(domains, record, headline),
    }


def _chart(
    domains: list[str], record: Mapping[str, Any], headline: str
) -> Markup | None:
    if len(domains) > _MAX_CURVES:
        return None
    curves = []
    for column, title in enumerate(domains):
        scores = [row[column] for row in record["mIoU"]]
        points = [(float(i), s) for i, s in enumerate(scores, 1) if is_number(s)]
        curves.append(Curve(title, [p[0] for p in points], [p[1] for p in points]))
    label = f"{headline} of each domain after each stage, %"
    return line_chart(curves, label=label, x_label="stage")
