"""Your own folders, source → target, with a small network from scratch.

    bash launch/local.sh --config configs/own_data.py \
        --config.task.classes=DIR/classes.txt --config.data.manual_dirs.folder=DIR

    DIR/classes.txt                            lines: value name #rrggbb
    DIR/source/{train,val}/{images,labels}/    images, label PNGs of the same names
    DIR/target/train/images/                   unlabelled images to adapt to
    DIR/target/val/{images,labels}/            to measure with

Sizes are for laptops; raise them for real work.
"""

from ml_collections import ConfigDict

SIZE = (192, 384)


def get_config():
    folder = {"dataset": "folder", "train": "train", "eval": "val"}
    statistics = {"size": SIZE, "batch_size": 32}
    adam = {"name": "adam", "weight_decay": 0.0, "head_multiplier": 1.0}
    return ConfigDict(
        {
            "name": "own_data",
            "task": {
                "name": "own_data",
                "classes": "cityscapes19",
                "source": {**folder, "variant": "source"},
                "target": {**folder, "variant": "target"},
            },
            "model": {"name": "tiny"},
            "evaluation": {"size": SIZE, "batch_size": 8},
            "pipeline": ("source", "adabn", "dtst", "refresh"),
            "stages": {
                "source": {
                    "method": "source_only",
                    "settings": {
                        "batch_size": 8,
                        "size": SIZE,
                        "flip": True,
                        "jitter": (0.15, 0.15, 0.15, 0.0),
                        "student_statistics": "batch",
                    },
                    "optimizer": {**adam, "learning_rate": 2e-3, "max_steps": 2000},
                    "rounds": ({"num_steps": 2000},),
                },
                "adabn": {
                    "method": "adabn",
                    "settings": statistics,
                    "rounds": ({"num_steps": 0},),
                },
                "dtst": {
                    "method": "dtst",
                    "network": "teacher",
                    "settings": {
                        "batch_size": 8,
                        "full_size": SIZE,
                        "crop_size": SIZE,
                        "scale": (1.0, 1.25),
                        "test_size": SIZE,
                        "candidate_size": (384, 768),
                        "mix_classes": (),
                        "ema_decay": 0.9,
                        "positive_mean": "kept",
                        "student_statistics": "batch",
                        "teacher_statistics": "batch",
                    },
                    "optimizer": {**adam, "learning_rate": 1e-4, "warmup_steps": 20},
                    "rounds": ({"num_steps": 150}, {"num_steps": 150}),
                },
                "refresh": {
                    "method": "adabn",
                    "settings": statistics,
                    "rounds": ({"num_steps": 0},),
                },
            },
        }
    )
