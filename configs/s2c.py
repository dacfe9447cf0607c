"""SYNTHIA → Cityscapes by DT-ST, published hyper-parameters, from a source checkpoint.

    python -m sfda_jax.main --config configs/s2c.py \
        --config.data.manual_dirs.cityscapes=DIR \
        --config.stages.adapt.init_from=S2C_model_iter020000.pth

Published (DT-ST, CVPR 2023, Table 2; R101, Cityscapes val, teacher): 16 classes, plain
source 33.1 → 47.7 mIoU16 (55.8 mIoU13); domain-generalised 37.8 → 50.7 (58.8).
Not measured here. To train the source model too, see configs/g2c.py.
"""

from ml_collections import ConfigDict

FULL, CROP = (640, 1280), (480, 960)


def get_config():
    train = {"train": "train", "variant": "synthia16"}
    synthia = {"dataset": "synthia", "train_list": "synthia_all", **train}
    cityscapes = {"dataset": "cityscapes", "train_list": "cityscapes_dtst", **train}
    return ConfigDict(
        {
            "name": "s2c",
            "seed": 0,
            "task": {
                "name": "synthia_to_cityscapes",
                "classes": "synthia16",
                "headline": "mIoU16",
                "source_free": True,
                "source": synthia,
                "target": {**cityscapes, "eval": "val"},
            },
            "model": {"name": "deeplab_v2"},
            "evaluation": {"size": FULL, "batch_size": 1, "every": 1000},
            "pipeline": ("adapt",),
            "stages": {
                "source": {
                    "method": "source_only",
                    "settings": {
                        "batch_size": 8,
                        "size": (760, 1280),
                        "scale_range": (0.75, 1.25),
                        "crop_size": (512, 960),
                    },
                    "optimizer": {"learning_rate": 5e-4, "max_steps": 31250},
                    "rounds": ({"num_steps": 20000},),
                },
                "adapt": {
                    "method": "dtst",
                    "init_from": "S2C_model_iter020000.pth",
                    "network": "teacher",
                    "settings": {
                        "full_size": FULL,
                        "crop_size": CROP,
                        "test_size": FULL,
                        "scale": (0.75, 1.75),
                    },
                    "rounds": (
                        {"num_steps": 2999},
                        *({"num_steps": 3000} for _ in range(5)),
                        {"num_steps": 2001},
                    ),
                },
            },
        }
    )
