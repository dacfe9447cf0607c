"""The recipes, and overrides that make any of them run in seconds."""

import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[2]
RECIPES = sorted(
    str(p) for p in (ROOT / "configs").glob("*.py") if p.stem != "__init__"
)
