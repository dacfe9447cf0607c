"""Procedural scenes, day → haze → dusk → day, source-free: learning and forgetting.

    bash launch/local.sh --config configs/demo_continual.py

The network learns clear days with labels, and then adapts to one weather after the
other: AdaBN, then self-training by DT-ST. The last days are other images than the
first. Measured (seed 0, mIoU19 on the held-out images of each weather):

    after         day    haze   dusk
    source       60.7    46.8   14.8
    haze_adabn   53.3    54.9
    haze         53.4    54.5
    dusk_adabn   33.1    18.8   43.5
    dusk         33.6    22.6   42.5
    day_adabn    58.6    47.1   23.9
    day          57.9    45.8   26.8
    forgetting   +2.8    +9.1  +16.7

What is learnt and what is forgotten is mostly in BatchNorm's statistics; a hundred
steps of self-training give back a little of what was forgotten.
"""

from ml_collections import ConfigDict

SIZE = (96, 192)
PASTED = (3, 4, 5, 6, 7, 9, 11, 12, 14, 15, 17, 18)


def get_config():
    scenes = {"dataset": "scenes", "variant": "weather-96x192-200"}
    haze = {"train": "haze_train", "eval": "haze_test"}
    dusk = {"train": "dusk_train", "eval": "dusk_test"}
    day = {"train": "day2_train", "eval": "day_test"}
    return ConfigDict(
        {
            "name": "demo_continual",
            "seed": 0,
            "task": {
                "name": "scenes_day_haze_dusk_day",
                "classes": "cityscapes19",
                "headline": "mIoU19",
                "source_free": True,
                "source": {**scenes, "train": "day_train", "eval": "day_test"},
                "target": {**scenes, **haze},
            },
            "model": {"name": "tiny"},
            "evaluation": {"size": SIZE, "batch_size": 8},
            "checkpoint": {"every": 100},
            "pipeline": (
                "source",
                *("haze_adabn", "haze", "dusk_adabn", "dusk", "day_adabn", "day"),
            ),
            "stages": {
                "source": _source(),
                **_adapted("haze", haze),
                **_adapted("dusk", dusk),
                **_adapted("day", day),
            },
        }
    )


def _source():
    settings = {"size": SIZE, "flip": True, "student_statistics": "batch"}
    return {
        "method": "source_only",
        "settings": {"batch_size": 8, **settings},
        "optimizer": _adam(2e-3, schedule="poly", max_steps=400),
        "rounds": ({"num_steps": 400},),
    }


def _adapted(name, target):
    """Two stages: the domain's BatchNorm statistics, then self-training on it."""
    statistics = {"size": SIZE, "batch_size": 50}
    self_training = {
        "batch_size": 8,
        "full_size": SIZE,
        "crop_size": SIZE,
        "scale": (1.0, 1.25),
        "jitter": (0.4, 0.4, 0.5, 0.0),
        "test_size": SIZE,
        "candidate_size": SIZE,
        "cutout_cell": 16,
        "ema_decay": 0.9,
        "positive_mean": "kept",
        "mix_classes": PASTED,
        "paste_scale": (0.8, 1.2),
        "student_statistics": "batch",
        "teacher_statistics": "batch",
    }
    return {
        f"{name}_adabn": {
            "method": "adabn",
            "target": target,
            "settings": statistics,
            "rounds": ({"num_steps": 0},),
        },
        name: {
            "method": "dtst",
            "target": target,
            "network": "teacher",
            "settings": self_training,
            "optimizer": _adam(1e-4, schedule="constant", warmup_steps=20),
            "rounds": ({"num_steps": 100},),
        },
    }


def _adam(learning_rate, **schedule):
    return {
        "name": "adam",
        "learning_rate": learning_rate,
        "weight_decay": 0.0,
        "head_multiplier": 1.0,
        **schedule,
    }
