"""CamVid, day → dusk: real photographs, 44 unlabelled target images, two CPU cores.

    bash launch/local.sh --config configs/camvid_day2dusk.py \
        --config.data.manual_dirs.camvid=DIR

DIR holds CamVid in the SegNet edition (train/, trainannot/, …) or in the folders
day/ and dusk/. The source is trained under light colour augmentation only (±15 %).

Dusk is dark. `tone` brightens the target by the label-free rule
gamma = ln(0.449) / ln(m) = 0.55, m = 0.23 the mean of the unlabelled dusk images and
0.449 ImageNet's, and re-estimates BatchNorm; self-training starts from there. The row
`tone` in the results shows what that alone gives.

Measured (three seeds, dusk_test, mIoU11): source only 13.8 ± 1.3, AdaBN 32.3 ± 1.4,
tone 38.2 ± 1.5, adapted 38.9 ± 1.4; day_val 42.9. Eight minutes and
1.1 GB on two cores.
"""

from ml_collections import ConfigDict

SIZE, GAMMA = (180, 240), 0.55


def get_config():
    camvid = {"dataset": "camvid"}
    statistics = {"size": SIZE, "batch_size": 44}
    return ConfigDict(
        {
            "name": "camvid_day2dusk",
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
            "pipeline": ("source", "adabn", "tone", "dtst", "refresh"),
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
                "dtst": {
                    "method": "dtst",
                    "network": "teacher",
                    "settings": {
                        "gamma": GAMMA,
                        "student_gamma": (0.4, 1.1),
                        "jitter": (0.2, 0.2, 0.2, 0.05),
                        "gray_probability": 0.0,
                        "batch_size": 4,
                        "full_size": SIZE,
                        "crop_size": SIZE,
                        "scale": (1.0, 1.25),
                        "test_size": SIZE,
                        "candidate_size": (360, 480),
                        "mix_classes": (8,),
                        "paste_scale": (0.8, 1.2),
                        "positive_mean": "kept",
                        "sampling": "uniform",
                        "cutout_probability": 0.0,
                        "ema_decay": 0.9,
                        "student_statistics": "batch",
                        "teacher_statistics": "batch",
                    },
                    "optimizer": {
                        "name": "adam",
                        "learning_rate": 1e-4,
                        "schedule": "constant",
                        "warmup_steps": 20,
                        "weight_decay": 0.0,
                        "head_multiplier": 1.0,
                    },
                    "rounds": ({"num_steps": 50}, {"num_steps": 50}),
                },
                "refresh": {
                    "method": "adabn",
                    "settings": {**statistics, "gamma": GAMMA},
                    "rounds": ({"num_steps": 0},),
                },
            },
        }
    )
