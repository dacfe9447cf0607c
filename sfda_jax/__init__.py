"""Source-free domain adaptation of semantic segmentation in JAX/Flax."""

import importlib

from sfda_jax.version import __version__

# Imported on first use, so that `import sfda_jax` is quick and starts no backend.
_PUBLIC = {
    "adapt": "sfda_jax.commands",
    "evaluate": "sfda_jax.commands",
    "predict": "sfda_jax.commands",
    "load_config": "sfda_jax.config",
    "load_model": "sfda_jax.weights.zoo",
    "list_models": "sfda_jax.weights.zoo",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str):
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
