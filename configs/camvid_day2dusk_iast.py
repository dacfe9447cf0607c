"""CamVid, day → dusk by IAST, source-free, on two CPU cores.

    bash launch/local.sh --config configs/camvid_day2dusk_iast.py \
        --config.data.manual_dirs.camvid=DIR

The source model, the tone curve and the final BatchNorm statistics are those of
camvid_day2dusk.py, so that only the self-training differs.

Measured (two seeds, dusk_test, mIoU11): source only 13.7, tone 37.4, adapted 37.3.
The stage itself takes a minute and a half on two cores.
"""

from ml_collections import ConfigDict

SIZE, GAMMA = (180, 240), 0.55


def get_config():
    camvid = {"dataset": "camvid"}
    statistics = {"size": SIZE, "batch_size": 44}
    return ConfigDict(
        {
            "name": "camvid_day2dusk_iast",
            "seed": 0,
            "task": {
                "name": "camvid_day_to_dusk",
                "classes": "camvid11",
                "headline": "mIoU11",
                "source_free": True,
                "source": {**camvid, "train": "day_train", "eval": "day_val"},
                "target": {**camvid, "train": "dusk_train", "eval": "dusk_test"},
            },
            "model": {"name": "tiny", "width": 32},
            "data": {"manual_dirs": {"camvid": "data/camvid"}},
            "evaluation": {"size": SIZE, "batch_size": 8},
            "checkpoint": {"every": 200},
            "pipeline": ("source", "adabn", "tone", "iast", "refresh"),
            "stages": {
                "source": {
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
                },
                "adabn": {
                    "method": "adabn",
                    "settings": statistics,
                    "rounds": ({"num_steps": 0},),
                },
                "tone": {
                    "method": "adabn",
                    "settings": {**statistics, "gamma": GAMMA},
                    "rounds": ({"num_steps": 0},),
                },
                "iast": {
                    "method": "iast",
                    "settings": {
                        "gamma": GAMMA,
                        "batch_size": 4,
                        "crop_size": SIZE,
                        "target_heights": (240, 360),
                        "train_order": "shuffled",
                        "entropy_weight": 0.3,
                        "student_statistics": "running",
                        "inference": {
                            "size": SIZE,
                            "resample": "bicubic",
                            "batch_size": 2,
                        },
                    },
                    "fresh_optimizer": True,
                    "optimizer": {
                        "name": "adam",
                        "learning_rate": 1e-5,
                        "schedule": "constant",
                        "warmup_steps": 20,
                        "weight_decay": 0.0,
                        "head_multiplier": 1.0,
                    },
                    "rounds": tuple(
                        {"num_steps": 50, "settings": {"selector": {"alpha": alpha}}}
                        for alpha in (0.2, 0.25, 0.3)
                    ),
                },
                "refresh": {
                    "method": "adabn",
                    "settings": {**statistics, "gamma": GAMMA},
                    "rounds": ({"num_steps": 0},),
                },
            },
        }
    )
