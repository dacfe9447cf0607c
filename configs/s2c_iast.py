"""SYNTHIA → Cityscapes by IAST (ECCV 2020), released settings.

    python -m sfda_jax.main --config configs/s2c_iast.py \
        --config.data.manual_dirs.synthia=DIR --config.data.manual_dirs.cityscapes=DIR \
        --config.stages.source.init_from=imagenet:resnet101-5d3b4d8f.pth

Published mIoU16 (mIoU13) on Cityscapes val (authors' repository). Variants
(s2c_iast.py:NAME):

    v100  51.54 (57.81)  one 32 GB GPU (default)
    t4    51.24 (57.70)  one 16 GB GPU: smaller batches, more steps

ECCV 2020: 49.8 (57.0). The network tells 19 classes apart. Hours unknown; neither
measured here.

Source-free, from any DeepLabV2 source model:

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
SOURCE = {"v100": (8, 9400, 9400), "t4": (4, 18800, 18800)}
WARMUP = {"v100": (4, 9200, 9400), "t4": (3, 18400, 18798)}
IAST = {"v100": (8, 2000, 3525), "t4": (3, 18400, 9399)}
# The step of a round whose network labels the next.
LABELLER = {"v100": 800, "t4": 9200}
# Learning rates of the warm-up, first and last: the network's, the discriminator's.
RATES = {"v100": ((2e-6, 2e-8), (2e-5, 2e-8)), "t4": ((3e-6, 3e-8), (1e-4, 3e-8))}


def get_config(variant):
    synthia = {"dataset": "synthia", "train_list": "synthia_all"}
    source = {**synthia, "variant": "cityscapes19"}
    target = {"dataset": "cityscapes", "train_list": "cityscapes_all"}
    middle = LABELLER[variant]
    (first, last), (discriminator_first, discriminator_last) = RATES[variant]
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
            "name": "s2c_iast",
            "seed": 0,
            "task": {
                "name": "synthia_to_cityscapes",
                "classes": "cityscapes19",
                "headline": "mIoU16",
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
                        "crop_heights": (341, 640),
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
                        "source_heights": (341, 640),
                        "adversarial_weight": 0.001,
                        "discriminator_rate": discriminator_first,
                        "discriminator_end_rate": discriminator_last,
                        "restart_steps": warmup_every,
                    },
                    "optimizer": {
                        **frozen,
                        "learning_rate": first,
                        "end_rate": last,
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
                        round_(0.25, 768, 2.5e-5, f"stage:iast/0@step={middle}"),
                        round_(0.3, 768, 2e-5, f"stage:iast/1@step={middle}"),
                    ),
                },
            },
        }
    )
