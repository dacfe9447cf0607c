"""GTA5 → Cityscapes by IAST (ECCV 2020), released settings.

    python -m sfda_jax.main --config configs/g2c_iast.py \
        --config.data.manual_dirs.gta5=DIR --config.data.manual_dirs.cityscapes=DIR \
        --config.stages.source.init_from=imagenet:resnet101-5d3b4d8f.pth

Published mIoU19 on Cityscapes val (authors' repository). Variants (g2c_iast.py:NAME):

    v100  51.88  one 32 GB GPU (default)
    t4    51.20  one 16 GB GPU: smaller batches, more steps

ECCV 2020: source only 35.6, warm-up 43.8, IAST 51.5, at several scales 52.2. Hours
unknown; neither measured here.

Source-free, from any DeepLabV2 source model (published: 48.8 without warm-up):

    … --config.pipeline="('iast',)" --config.stages.iast.init_from=FILE

Stages end at their last released save. A round is labelled by a network from the middle
of the one before; the first by the one it starts from (released: the best on labelled
target images, which no label may choose here). Five scales, as IAST was tested:

    python -m sfda_jax.main evaluate --workdir=RUN \
        --config.evaluation.average=view_probs \
        --config.evaluation.scales="(0.5, 0.625, 0.75, 0.87890625, 1.0)"
"""

from ml_collections import ConfigDict

VARIANTS = ("v100", "t4")
# Per stage: images in a batch, steps, steps to a restart of the learning rate.
SOURCE = {"v100": (8, 24936, 24936), "t4": (2, 99760, 99760)}
WARMUP = {"v100": (4, 24800, 24940), "t4": (1, 99200, 99764)}
IAST = {"v100": (8, 6000, 9351), "t4": (2, 24800, 37410)}
# The steps of the first and the second round whose networks label the next.
LABELLERS = {"v100": (2800, 2800), "t4": (12400, 12000)}


def get_config(variant):
    source = {"dataset": "gta5", "train_list": "gta5_iast"}
    target = {"dataset": "cityscapes", "train_list": "cityscapes_all"}
    first, second = LABELLERS[variant]
    source_batch, source_steps, source_every = SOURCE[variant]
    warmup_batch, warmup_steps, warmup_every = WARMUP[variant]
    iast_batch, iast_steps, iast_every = IAST[variant]
    adam = {"name": "adam", "schedule": "cosine_restart", "weight_decay": 5e-4}
    frozen = {**adam, "freeze": ("*bn*",)}

    def round_(alpha, height, rate, labels_from=""):
        return {
            "num_steps": iast_steps,
            "labels_from": labels_from,
            "settings": {
                "selector": {"alpha": alpha},
                "inference": {"size": (height, 2 * height)},
            },
            "optimizer": {"learning_rate": 0.1 * rate, "end_rate": 1e-3 * rate},
        }

    return ConfigDict(
        {
            "name": "g2c_iast",
            "seed": 0,
            "task": {
                "name": "gta5_to_cityscapes",
                "classes": "cityscapes19",
                "headline": "mIoU19",
                "source_free": True,
                "source": {**source, "train": "train"},
                "target": {**target, "train": "train", "eval": "val"},
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
                        "batch_size": source_batch,
                        "crop_size": (512, 1024),
                        "crop_heights": (341, 950),
                        "sampling": "fixed",
                        "student_statistics": "batch",
                    },
                    "optimizer": {
                        **adam,
                        "learning_rate": 1e-5,
                        "end_rate": 1e-7,
                        "restart_steps": source_every,
                    },
                    "rounds": ({"num_steps": source_steps},),
                },
                "warmup": {
                    "method": "warmup_adversarial",
                    "settings": {
                        "batch_size": warmup_batch,
                        "source_heights": (341, 950),
                        "adversarial_weight": 0.05,
                        "discriminator_rate": 2e-5,
                        "discriminator_end_rate": 2e-8,
                        "restart_steps": warmup_every,
                    },
                    "optimizer": {
                        **frozen,
                        "learning_rate": 2e-6,
                        "end_rate": 2e-8,
                        "restart_steps": warmup_every,
                    },
                    "rounds": ({"num_steps": warmup_steps},),
                },
                "iast": {
                    "method": "iast",
                    "settings": {"batch_size": iast_batch},
                    "fresh_optimizer": True,
                    "optimizer": {**frozen, "restart_steps": iast_every},
                    "rounds": (
                        round_(0.2, 640, 3e-5),
                        round_(0.25, 768, 2.5e-5, f"stage:iast/0@step={first}"),
                        round_(0.3, 768, 2e-5, f"stage:iast/1@step={second}"),
                    ),
                },
            },
        }
    )
