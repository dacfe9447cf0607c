"""The recipes, and overrides that make any of them run in seconds."""

import pathlib

from sfda_jax import config

ROOT = pathlib.Path(__file__).resolve().parents[2]
RECIPES = sorted(
    str(p) for p in (ROOT / "configs").glob("*.py") if p.stem != "__init__"
)
DEMO = str(ROOT / "configs" / "demo.py")

_SIZE, _CROP = "(48, 96)", "(32, 64)"
_BY_METHOD = {
    "source_only": {"size": _SIZE, "crop_size": _CROP, "batch_size": "4"},
    "adabn": {"size": _SIZE, "batch_size": "8"},
    "dtst": {
        "full_size": _SIZE,
        "crop_size": _CROP,
        "test_size": _SIZE,
        "candidate_size": _SIZE,
        "batch_size": "4",
        "query_start": "2",
        "query_step": "1",
        "max_update": "3",
    },
}


def small(path: str, *, steps: int = 2) -> dict[str, str]:
    """Overrides: the tiny network, toy images, two rounds of a few steps at most."""
    loaded = config.load_config(path)
    overrides = {
        "model.name": "tiny",
        "parallel.devices": "1",
        "data.generated": "true",
        "data.generated_size": _SIZE,
        "evaluation.size": _SIZE,
        "evaluation.batch_size": "8",
        "evaluation.every": "0",
        "evaluation.panels": "1",
        "checkpoint.every": "1",
        "log.every": "1",
    }
    for name in loaded.pipeline:
        stage = loaded.stages[name]
        where = f"stages.{name}"
        for key, text in _BY_METHOD[stage.method].items():
            overrides[f"{where}.settings.{key}"] = text
        if not stage.init_from.startswith(("previous", "stage:")):
            overrides[f"{where}.init_from"] = "scratch"
        if stage.rounds[0]["num_steps"]:
            rounds = [f"{{'num_steps': {steps}}}"] * min(len(stage.rounds), 2)
            overrides[f"{where}.rounds"] = f"({', '.join(rounds)},)"
    return overrides


def as_flags(overrides: dict[str, str]) -> list[str]:
    """The overrides as command-line arguments."""
    return [f"--config.{key}={text}" for key, text in overrides.items()]
