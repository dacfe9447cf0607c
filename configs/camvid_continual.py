"""CamVid, day → dusk → day, source-free: learning and forgetting, on two CPU cores.

    bash launch/local.sh --config configs/camvid_continual.py \
        --config.data.manual_dirs.camvid=DIR

DIR as in camvid_day2dusk.py, whose settings these are. The source is trained on day
images with labels; dusk follows without, and then day again, now without too. Every
stage is a re-estimate of BatchNorm or self-training by DT-ST. Dusk is seen through its
tone curve (`gamma`, camvid_day2dusk.py), day as it is. Measured (seed 0, mIoU11):

    after        day_val  dusk_test
    source          43.1       15.0
    dusk_tone       40.0       37.9
    dusk            37.2       37.6
    day_adabn       42.1       28.3
    day             40.6       27.2
    forgetting      +2.5      +10.7
"""

from ml_collections import ConfigDict

SIZE, FULL, GAMMA = (180, 240), (360, 480), 0.55
ONLINE = {
    "student_gamma": (0.4, 1.1),
    "jitter": (0.2, 0.2, 0.2, 0.05),
    "gray_probability": 0.0,
    "batch_size": 4,
    "full_size": SIZE,
    "crop_size": SIZE,
    "scale": (1.0, 1.25),
    "test_size": SIZE,
    "candidate_size": FULL,
    "mix_classes": (8,),
    "paste_scale": (0.8, 1.2),
    "sampling": "uniform",
    "cutout_probability": 0.0,
    "ema_decay": 0.9,
    "positive_mean": "kept",
    "student_statistics": "batch",
    "teacher_statistics": "batch",
}


def get_config():
    camvid = {"dataset": "camvid"}
    day = {"train": "day_train", "eval": "day_val"}
    dusk = {"train": "dusk_train", "eval": "dusk_test"}
    stages = {
        "source": _source(),
        "dusk_tone": _statistics(dusk, GAMMA),
        "dusk": _self_training(dusk, GAMMA),
        "day_adabn": _statistics(day, 1.0),
        "day": _self_training(day, 1.0),
    }
    return ConfigDict(
        {
            "name": "camvid_continual",
            "seed": 0,
            "task": {
                "name": "camvid_day_dusk_day",
                "classes": "camvid11",
                "headline": "mIoU11",
                "source_free": True,
                "source": {**camvid, **day},
                "target": {**camvid, **dusk},
            },
            "model": {"name": "tiny", "width": 32},
            "data": {"manual_dirs": {"camvid": "data/camvid"}},
            "evaluation": {"size": SIZE, "batch_size": 8},
            "checkpoint": {"every": 200},
            "pipeline": tuple(stages),
            "stages": stages,
        }
    )


def _source():
    return {
        "method": "source_only",
        "settings": {
            "batch_size": 8,
            "size": SIZE,
            "scale_range": (0.7, 1.7),
            "crop_size": (144, 192),
            "flip": True,
            "jitter": (0.15, 0.15, 0.15, 0.0),
            "gray_probability": 0.0,
            "student_statistics": "batch",
        },
        "optimizer": {
            "name": "adamw",
            "learning_rate": 4e-3,
            "schedule": "cosine",
            "warmup_steps": 50,
            "max_steps": 1100,
            "weight_decay": 1e-3,
            "head_multiplier": 1.0,
            "clip_norm": 5.0,
        },
        "rounds": ({"num_steps": 1100},),
    }


def _statistics(target, gamma):
    return {
        "method": "adabn",
        "target": target,
        "settings": {"size": SIZE, "batch_size": 44, "gamma": gamma},
        "rounds": ({"num_steps": 0},),
    }


def _self_training(target, gamma):
    return {
        "method": "dtst",
        "target": target,
        "network": "teacher",
        "settings": {**ONLINE, "gamma": gamma},
        "optimizer": {
            "name": "adam",
            "learning_rate": 1e-4,
            "schedule": "constant",
            "warmup_steps": 20,
            "weight_decay": 0.0,
            "head_multiplier": 1.0,
        },
        "rounds": ({"num_steps": 50}, {"num_steps": 50}),
    }
