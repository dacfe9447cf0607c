"""What the health monitor saw of a finished run, for its summary."""

import json
import pathlib
from typing import Any


def health_record(run_dir: pathlib.Path) -> dict[str, Any] | None:
    """What the log says of the networks' health; None where nobody looked.

    Returns:
        `looks`, their number; `unhealthy`: stage → how many of them, where there were
        any; `signals`: stage → those that warned; `rollbacks`: the log's lines on
        stages that ended early (`stage`, `round`, `step`, `to_round`, `to_step`).
    """
    looks, unhealthy, signals, rollbacks = 0, {}, {}, []
    for text in (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        line = json.loads(text)
        if line.get("event") == "rollback":
            keys = ("stage", "round", "step", "to_round", "to_step")
            rollbacks.append({key: line[key] for key in keys})
        if line.get("event") != "health":
            continue
        looks += 1
        if line["warnings"]:
            stage = line["stage"]
            unhealthy[stage] = unhealthy.get(stage, 0) + 1
            named = signals.setdefault(stage, [])
            named += [w["signal"] for w in line["warnings"] if w["signal"] not in named]
    if not looks:
        return None
    return {
        "looks": looks,
        "unhealthy": unhealthy,
        "signals": signals,
        "rollbacks": rollbacks,
    }


def format_health(record: dict[str, Any]) -> list[str]:
    """Lines for the printed summary; none where all was well."""
    lines = []
    for stage, count in record["unhealthy"].items():
        listed = ", ".join(record["signals"][stage])
        looks = "look" if count == 1 else "looks"
        lines.append(f"{'health':<14}{stage}: {count} unhealthy {looks} ({listed})")
    for row in record["rollbacks"]:
        lines.append(
            f"{'rolled back':<14}{row['stage']}: ended in round {row['round'] + 1}, "
            f"step {row['step']}, as it was in round {row['to_round'] + 1}, "
            f"step {row['to_step']}"
        )
    return lines
