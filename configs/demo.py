"""Procedural driving scenes, game → real: everything on two CPU cores, no download.

bash launch/local.sh --config configs/demo.py
"""

from ml_collections import ConfigDict

SIZE = (96, 192)


def get_config():
    scenes = {"dataset": "scenes", "variant": "96x192"}
    return ConfigDict(
        {
            "name": "demo",
            "seed": 0,
            "task": {
                "name": "scenes_game_to_real",
                "classes": "cityscapes19",
                "headline": "mIoU19",
                "source_free": True,
                "source": {**scenes, "train": "game_train", "eval": "game_val"},
                "target": {**scenes, "train": "real_train", "eval": "real_test"},
            },
            "model": {"name": "tiny"},
            "evaluation": {"size": SIZE, "batch_size": 8},
            "checkpoint": {"every": 100},
            "pipeline": ("source", "adabn", "adapt"),
            "stages": {
                "source": {
                    "method": "source_only",
                    "settings": {
                        "batch_size": 8,
                        "size": SIZE,
                        "flip": True,
                        "student_statistics": "batch",
                    },
                    "optimizer": {
                        "name": "adam",
                        "learning_rate": 2e-3,
                        "head_multiplier": 1.0,
                        "weight_decay": 0.0,
                        "max_steps": 400,
                    },
                    "rounds": ({"num_steps": 400},),
                },
                "adabn": {
                    "method": "adabn",
                    "settings": {"size": SIZE, "batch_size": 16},
                    "rounds": ({"num_steps": 0},),
                },
                "adapt": {
                    "method": "dtst",
                    "network": "teacher",
                    "settings": {
                        "batch_size": 8,
                        "full_size": SIZE,
                        "crop_size": (64, 128),
                        "test_size": SIZE,
                        "candidate_size": SIZE,
                    },
                    "optimizer": {
                        "name": "adam",
                        "learning_rate": 3e-4,
                        "head_multiplier": 1.0,
                        "weight_decay": 0.0,
                        "max_steps": 400,
                    },
                    "rounds": ({"num_steps": 150}, {"num_steps": 150}),
                },
            },
        }
    )
