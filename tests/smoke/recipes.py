"""The recipes, and overrides that make any of them run in seconds."""

import pathlib

from sfda_jax import config

ROOT = pathlib.Path(__file__).resolve().parents[2]
_FILES = sorted(str(p) for p in (ROOT / "configs").glob("*.py") if p.stem != "__init__")
# Recipes with variants stand here once for each of them.
RECIPES = [
    f"{file}:{variant}" if variant else file
    for file in _FILES
    for variant in config.variants(file) or ("",)
]
DEMO = str(ROOT / "configs" / "demo.py")

_SIZE, _CROP, _HEIGHTS = "(48, 96)", "(32, 64)", "(24, 48)"
_SMALL_CROPS = {
    f"{side}_crop.{key}": text
    for side in ("source", "target")
    for key, text in (
        ("full_size", _SIZE),
        ("base_width", "96"),
        ("crop_size", _CROP),
    )
}
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
    "snd": {
        "full_size": _SIZE,
        "crop_size": _CROP,
        "test_size": _SIZE,
        "candidate_size": _SIZE,
        "batch_size": "4",
        "stable_share": "0.5",
        "query_start": "4",
        "query_step": "4",
        "max_update": "4",
    },
    "warmup_adversarial": {
        "crop_size": _CROP,
        "source_heights": _HEIGHTS,
        "target_heights": _HEIGHTS,
        "batch_size": "4",
        "discriminator_width": "4",
    },
    "iast": {
        "crop_size": _CROP,
        "source_heights": _HEIGHTS,
        "target_heights": _HEIGHTS,
        "batch_size": "4",
        "inference.size": _SIZE,
        # An untrained network is nowhere sure of itself.
        "selector.theta0": "0.0",
    },
    "cbst": {
        "crop_size": "(32,)",
        "long_sides": "(96, 96)",
        "source_portion": "0.5",
        "batch_size": "4",
        "inference.size": "()",
        "inference.scale": "1.0",
        "inference.label_size": "()",
        "inference.batch_size": "4",
    },
    "bismap_transferability": {
        # The files of SimCLR are too large to come along.
        "extractor": "student",
        "boost": "none",
        "input_size": _SIZE,
        "map_size": _SIZE,
        "clusters": "4",
    },
    "bismap_prototypes": {
        "source_size": _SIZE,
        "target_size": _SIZE,
        "label_size": "()",
        "collect.portions": "(1.0,)",
        "mixture.components": "2",
        # An untrained network has features of any scale.
        "selector.absolute": "(-1e9,)",
    },
    "bismap_self_train": {
        "batch_size": "4",
        **_SMALL_CROPS,
    },
    "bismap_distill": {
        "batch_size": "4",
        "inference.size": _SIZE,
        "inference.view_sizes": f"({_CROP}, {_SIZE})",
        **_SMALL_CROPS,
    },
}
# Of a sequence of domains: what comes back, and one stage of a kind in between.
_SHORT = {
    "c2acdc_continual": ("fog", "night", "fog_again"),
    "demo_continual": ("source", "haze_adabn", "dusk", "day"),
}
_BY_CROP = {"cbst": {}, "crst": {"crop_size": _CROP}}
_TINY = {"model": "{'name': 'tiny'}"}
_SHRUNKEN = {
    "model.stem_channels": "4",
    "model.planes": "(2, 4, 6, 8)",
    "model.blocks": "(1, 1, 2, 1)",
}


def small(path: str, *, steps: int = 2) -> dict[str, str]:
    """Overrides: the tiny network, toy images, two rounds of a few steps at most."""
    loaded = config.load_config(path)
    overrides = {
        # The tiny network does not know what CRST's is told.
        **(_SHRUNKEN if loaded.model.get("stride_first") else _TINY),
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
    file = pathlib.Path(path).name.partition(".py")[0]
    pipeline = _SHORT.get(file, tuple(loaded.pipeline))
    if file in _SHORT:
        overrides["pipeline"] = str(pipeline)
    for name in pipeline:
        stage = loaded.stages[name]
        where = f"stages.{name}"
        settings = _BY_METHOD[stage.method]
        settings = settings | _BY_CROP.get(stage.settings.get("crop"), {})
        if not stage.settings.get("source_portion", 1.0):
            settings = settings | {"source_portion": "0.0"}
        if stage.settings.get("crop_heights"):
            settings = settings | {"crop_heights": _HEIGHTS}
        for key, text in settings.items():
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
