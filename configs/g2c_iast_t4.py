"""GTA5 → Cityscapes by IAST, released settings for one 16 GB GPU (T4).

    python -m sfda_jax.main --config configs/g2c_iast_t4.py \
        --config.data.manual_dirs.gta5=DIR --config.data.manual_dirs.cityscapes=DIR \
        --config.stages.source.init_from=imagenet:resnet101-5d3b4d8f.pth

Published (authors' repository): 51.20 mIoU19 on Cityscapes val. Hours unknown; not
measured here.
More, and how to do without source images: configs/g2c_iast.py.
"""

from ml_collections import ConfigDict


def get_config():
    train = {"train": "train"}
    source = {"dataset": "gta5", "train_list": "gta5_iast", **train}
    target = {"dataset": "cityscapes", "train_list": "cityscapes_all", **train}
    adam = {"name": "adam", "schedule": "cosine_restart", "weight_decay": 5e-4}
    frozen = {**adam, "freeze": ("*bn*",)}

    def round_(alpha, height, rate, labels_from=""):
        return {
            "num_steps": 24800,
            "labels_from": labels_from,
            "settings": {
                "selector": {"alpha": alpha},
                "inference": {"size": (height, 2 * height)},
            },
            "optimizer": {"learning_rate": 0.1 * rate, "end_rate": 1e-3 * rate},
        }

    return ConfigDict(
        {
            "name": "g2c_iast_t4",
            "seed": 0,
            "task": {
                "name": "gta5_to_cityscapes",
                "classes": "cityscapes19",
                "headline": "mIoU19",
                "source_free": True,
                "source": source,
                "target": {**target, "eval": "val"},
            },
            "model": {"name": "deeplab_v2", "bn_eps": 1e-5, "frozen_bn": False},
            "evaluation": {
                "size": (1024, 2048),
                "scales": (0.75,),
                "enlarge_twice": True,
                "absent_classes": "zero",
                "batch_size": 1,
            },
            "pipeline": ("source", "warmup", "iast"),
            "stages": {
                "source": {
                    "method": "source_only",
                    "init_from": "imagenet:resnet101-5d3b4d8f.pth",
                    "settings": {
                        "batch_size": 2,
                        "crop_size": (512, 1024),
                        "crop_heights": (341, 950),
                        "sampling": "fixed",
                        "student_statistics": "batch",
                    },
                    "optimizer": {
                        **adam,
                        "learning_rate": 1e-5,
                        "end_rate": 1e-7,
                        "restart_steps": 99760,
                    },
                    "rounds": ({"num_steps": 99760},),
                },
                "warmup": {
                    "method": "warmup_adversarial",
                    "settings": {
                        "batch_size": 1,
                        "source_heights": (341, 950),
                        "adversarial_weight": 0.05,
                        "discriminator_rate": 2e-5,
                        "discriminator_end_rate": 2e-8,
                        "restart_steps": 99764,
                    },
                    "optimizer": {
                        **frozen,
                        "learning_rate": 2e-6,
                        "end_rate": 2e-8,
                        "restart_steps": 99764,
                    },
                    "rounds": ({"num_steps": 99200},),
                },
                "iast": {
                    "method": "iast",
                    "settings": {"batch_size": 2},
                    "fresh_optimizer": True,
                    "optimizer": {**frozen, "restart_steps": 37410},
                    "rounds": (
                        round_(0.2, 640, 3e-5),
                        round_(0.25, 768, 2.5e-5, "stage:iast/0@step=12400"),
                        round_(0.3, 768, 2e-5, "stage:iast/1@step=12000"),
                    ),
                },
            },
        }
    )
