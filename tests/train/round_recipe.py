"""Two systems of rounds on toy images: what the kill test runs."""

from ml_collections import ConfigDict

SIZE = (24, 48)
_OPTIMIZER = {"learning_rate": 1e-3, "schedule": "constant"}
_INFERENCE = {"size": SIZE, "resample": "bilinear", "batch_size": 1}


def get_config():
    scenes = {"dataset": "scenes", "variant": "96x192"}
    return ConfigDict(
        {
            "name": "rounds",
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
            "data": {"generated": True, "generated_size": SIZE},
            "parallel": {"devices": 1},
            "evaluation": {"size": SIZE, "batch_size": 32, "panels": 1},
            "checkpoint": {"every": 1},
            "log": {"every": 1},
            "pipeline": ("source", "cbst", "iast"),
            "stages": {
                "source": {
                    "method": "source_only",
                    "settings": {"batch_size": 8, "size": SIZE},
                    "optimizer": _OPTIMIZER,
                    "rounds": ({"num_steps": 2},),
                },
                "cbst": {
                    "method": "cbst",
                    "settings": {
                        "source_portion": 0.0,
                        "batch_size": 4,
                        "crop": "crst",
                        "crop_size": SIZE,
                        "scale_range": (0.9, 1.1),
                        "loss_size": "crop",
                        "inference": {
                            **_INFERENCE,
                            "enlarge": "logits",
                            "label_size": SIZE,
                        },
                    },
                    "optimizer": _OPTIMIZER,
                    "rounds": (
                        {"num_steps": 4, "settings": {"selector": {"portion": 0.3}}},
                        {"num_steps": 3, "settings": {"selector": {"portion": 0.5}}},
                    ),
                },
                "iast": {
                    "method": "iast",
                    "settings": {
                        "batch_size": 4,
                        "crop_size": SIZE,
                        "target_heights": (16, 24),
                        "label_order": "file",
                        "train_order": "shuffled",
                        "selector": {"instance_size": 1},
                        "inference": _INFERENCE,
                    },
                    "optimizer": _OPTIMIZER,
                    "rounds": ({"num_steps": 3},),
                },
            },
        }
    )
