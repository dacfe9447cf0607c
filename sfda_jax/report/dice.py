"""Dice in the report: per class, over subsets and over images."""

from collections.abc import Callable, Mapping
from typing import Any


def dice_tables(
    summary: Mapping[str, Any], title: Callable[[str], str]
) -> list[dict[str, Any]]:
    """Tables of Dice, and of means over images; none where it was not asked for.

    Args:
        summary: the run's results; `dice`, `mean_dice` and `image_means` are read.
        title: how the report calls a network.

    Returns:
        Tables of: title, titles (of the networks), rows of: name, values (percent).
    """
    classes, means = summary.get("dice") or {}, summary.get("mean_dice") or {}
    if not classes:
        return []
    rows = {key: dict(classes[key]) for key in classes}
    for key, table in rows.items():
        for subset, value in (means.get(key) or {}).items():
            table[f"mean of {subset}"] = value
    tables = [_table("Dice, %", rows, title)]
    of_images = {
        key: {
            f"{name}, {metric}": values.get(entry)
            for name, values in (found or {}).items()
            for entry, metric in (("iou", "IoU"), ("dice", "Dice"))
        }
        for key, found in (summary.get("image_means") or {}).items()
    }
    if of_images:
        tables.append(_table("Means over images, %", of_images, title))
    return tables


def _table(
    heading: str, columns: Mapping[str, Mapping[str, Any]], title: Callable[[str], str]
) -> dict[str, Any]:
    names = dict.fromkeys(name for column in columns.values() for name in column)
    return {
        "title": heading,
        "titles": [title(key) for key in columns],
        "rows": [
            {"name": name, "values": [column.get(name) for column in columns.values()]}
            for name in names
        ],
    }
