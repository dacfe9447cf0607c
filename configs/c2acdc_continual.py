"""Cityscapes → ACDC, fog → night → rain → snow and back, source-free, DeepLabV2-R101.

    python -m sfda_jax.main --config configs/c2acdc_continual.py \
        --config.data.manual_dirs.acdc=DIR \
        --config.stages.fog.init_from=cityscapes_deeplab_v2.pth

Seven stages, each from the network of the one before; all are scored on every condition
seen so far, on Cityscapes too where its files are at hand:

    … --config.evaluation.source=true --config.data.manual_dirs.cityscapes=DIR

Variants: dtst (default), stable_st. Order, rounds and results of the family's continual
setting were not found: order and steps are ours, sizes those of its 19-class presets
(2:1; ACDC's images are 16:9), nothing is measured here.
"""

from ml_collections import ConfigDict

VARIANTS = ("dtst", "stable_st")
ORDER = ("fog", "night", "rain", "snow")
SOURCE = "cityscapes_deeplab_v2.pth"
STABLE = {"ema_decay": 0.99, "dynamic": True, "stable_share": 0.05}


def get_config(variant):
    stages = {name: _stage(variant, name) for name in ORDER}
    for name in reversed(ORDER[:-1]):
        stages[f"{name}_again"] = _stage(variant, name)
    stages["fog"]["init_from"] = SOURCE
    return ConfigDict(
        {
            "name": "c2acdc_continual",
            "seed": 0,
            "task": {
                "name": "cityscapes_to_acdc_continual",
                "classes": "cityscapes19",
                "headline": "mIoU19",
                "source_free": True,
                "source": {"dataset": "cityscapes", "train": "train", "eval": "val"},
                "target": {"dataset": "acdc", "train": "fog_train", "eval": "fog_val"},
            },
            "model": {"name": "deeplab_v2"},
            "evaluation": {"size": (768, 1536), "batch_size": 1},
            "pipeline": tuple(stages),
            "stages": stages,
        }
    )


def _stage(variant, condition):
    return {
        "method": "dtst" if variant == "dtst" else "snd",
        "target": {"train": f"{condition}_train", "eval": f"{condition}_val"},
        "network": "teacher",
        "settings": {} if variant == "dtst" else STABLE,
        "rounds": ({"num_steps": 1000}, {"num_steps": 1000}),
    }
