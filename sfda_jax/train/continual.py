"""What a run over a sequence of domains keeps of each: scores and forgetting.

Forgetting of a domain (Chaudhry et al., "Riemannian Walk for Incremental Learning",
ECCV 2018): its best score after any earlier stage minus its score after the last. Their
mean is over the domains that the last stage did not adapt to. Negative values are gains
on a domain after it was left.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sfda_jax.train.domains import START, place, source_network, split_titles
from sfda_jax.train.recipe import Recipe

_START = "start"


def scored_tables(record: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Title of a split → its table, of what a stage's evaluation left."""
    own = [record[name] for name in ("target", "source") if name in record]
    tables = [*own, *record.get("others", {}).values()]
    return {table["split"]: table for table in tables}


def continual_record(
    recipe: Recipe, records: Sequence[Mapping[str, Any]], start: Mapping | None
) -> dict[str, Any]:
    """The scores of a continual run in percent: a matrix and what is made of it.

    Args:
        recipe: a continual one.
        records: what each stage's evaluation left, in order.
        start: the same of the network the run was given, if it was.

    Returns:
        `domains` (titles), `stages` (`name`, and the title it `adapts_to` or None),
        `mIoU` (one row per stage, None where it was not scored), `forgetting` (title →
        value or None), `mean_forgetting`, and `mean`, of the last row.
    """
    titles = split_titles(recipe)
    rows = [
        {
            "name": stage.name,
            "adapts_to": None
            if stage.trains_on_source
            else titles[place(stage.task.target)],
        }
        for stage in recipe.stages
    ]
    if start is not None and source_network(recipe) == START:
        rows, records = [{"name": _START, "adapts_to": None}, *rows], [start, *records]
    matrix = [_scores(recipe, record, list(titles.values())) for record in records]
    forgetting = {
        title: _forgetting([row[i] for row in matrix])
        for i, title in enumerate(titles.values())
    }
    last = titles[place(recipe.stages[-1].task.target)]
    return {
        "domains": list(titles.values()),
        "stages": rows,
        "mIoU": matrix,
        "forgetting": forgetting,
        "mean_forgetting": _mean(
            [value for title, value in forgetting.items() if title != last]
        ),
        "mean": _mean(matrix[-1]),
    }


def format_continual(record: Mapping[str, Any], subset: str) -> str:
    """The matrix as text, forgetting below."""
    title = f"{subset} after"
    names = [row["name"] for row in record["stages"]]
    left = max(len(name) for name in (*names, title, "forgetting")) + 2
    widths = [max(len(title), 6) + 2 for title in record["domains"]]

    def line(name, values):
        cells = zip(values, widths, strict=True)
        return f"{name:<{left}}" + "".join(f"{text:>{width}}" for text, width in cells)

    def number(value, sign=""):
        return "-" if value is None else f"{value:{sign}.2f}"

    lines = [line(title, record["domains"])]
    for name, row in zip(names, record["mIoU"], strict=True):
        lines.append(line(name, [number(value) for value in row]))
    lost = [number(value, "+") for value in record["forgetting"].values()]
    lines.append(line("forgetting", lost))
    lines.append(
        f"mean forgetting {number(record['mean_forgetting'], '+')} (best earlier score "
        "minus last, of the domains not adapted to last); "
        f"mean of all domains {number(record['mean'])}"
    )
    return "\n".join(lines)


def _scores(
    recipe: Recipe, record: Mapping[str, Any], titles: Sequence[str]
) -> list[float | None]:
    tables, headline = scored_tables(record), recipe.task.headline
    return [
        tables[title]["mIoU"][headline] if title in tables else None for title in titles
    ]


def _forgetting(scores: Sequence[float | None]) -> float | None:
    """Best earlier score minus last; None without both."""
    *earlier, last = scores
    earlier = [score for score in earlier if score is not None]
    return max(earlier) - last if earlier and last is not None else None


def _mean(values: Sequence[float | None]) -> float | None:
    values = [value for value in values if value is not None]
    return sum(values) / len(values) if values else None
