"""SYNTHIA → Cityscapes by BiSMAP (ACM MM 2022).

    python -m sfda_jax.main --config configs/s2c_bismap.py \
        --config.data.manual_dirs.synthia=DIR --config.data.manual_dirs.cityscapes=DIR

Published mIoU13 on Cityscapes val: 62.8. No settings were released for SYNTHIA: these
are GTA5's with SYNTHIA's size and tables [U]. See g2c_bismap.py for the stages, the
files that are needed, and the variant source_free.

The network tells 19 classes apart; SYNTHIA lacks three of them, which therefore have no
prototype. The released loader subtracts the mean twice, an effect below 0.01 in units
of standard deviations: `source_mean_twice=true` in the settings of a stage does so too.
Hours unknown, not measured here.
"""

from ml_collections import ConfigDict

VARIANTS = ("published", "source_free")
IMAGENET = "imagenet:resnet101-5d3b4d8f.pth"
SIMCLR = "imagenet:r101_1x_sk0.pth"
STEPS = 90_000
SIZE = (760, 1280)
# Share of each class's right pixels that is collected; 0: SYNTHIA has none.
PORTIONS = (0.008, 0.04, 0.012, 0.4, 0.4, 0.4, 1.0, 0.5, 0.04, 0.0)
PORTIONS += (0.02, 0.07, 0.5, 0.05, 0.0, 0.08, 0.0, 1.0, 1.0)


def get_config(variant):
    free = variant == "source_free"
    pipeline = ("stm", "warmup", "prototypes", "self_train", "distill")
    both = {"weights_of": "stage:stm", "source_crop": {"full_size": SIZE}}
    if free:
        pipeline = pipeline[2:]
        both = {"use_source": False, "weights_of": ""}
    optimizer = {
        "learning_rate": 5e-4,
        "schedule": "warm_poly",
        "max_steps": STEPS,
        "warmup_steps": 400,
        "end_rate": 1e-7,
    }
    training = {"optimizer": optimizer, "rounds": ({"num_steps": STEPS},)}
    preparing = {"rounds": ({"num_steps": 0},)}
    return ConfigDict(
        {
            "name": "s2c_bismap",
            "seed": 0,
            "task": {
                "name": "synthia_to_cityscapes",
                "classes": "cityscapes19",
                "headline": "mIoU13",
                "source_free": free,
                "source": {
                    "dataset": "synthia",
                    "variant": "cityscapes19",
                    "train": "train",
                    "eval": "",
                },
                "target": {"dataset": "cityscapes", "train": "train", "eval": "val"},
            },
            "model": {"name": "deeplab_v3_plus"},
            "evaluation": {
                "size": (1024, 2048),
                "resample": "bilinear",
                "average": "stride_probs",
                "batch_size": 1,
            },
            "pipeline": pipeline,
            "stages": {
                "stm": {
                    **preparing,
                    "method": "bismap_transferability",
                    "settings": {"boost": "synthia", "map_size": SIZE},
                },
                "warmup": {
                    **training,
                    "method": "bismap_self_train",
                    "init_from": IMAGENET,
                    "settings": {**both, "labels_of": "", "consistency": 0.0},
                },
                "prototypes": {
                    **preparing,
                    "method": "bismap_prototypes",
                    "init_from": "synthia_warmup_model.pkl" if free else "previous",
                    "settings": {
                        "prototypes": "fit_target" if free else "fit_source",
                        "source_size": SIZE,
                        "collect": {"portions": PORTIONS},
                    },
                },
                "self_train": {
                    **training,
                    "method": "bismap_self_train",
                    "init_from": "previous" if free else IMAGENET,
                    "settings": both,
                },
                "distill": {
                    **training,
                    "method": "bismap_distill",
                    "init_from": SIMCLR,
                    "settings": both,
                    "rounds": (
                        {"num_steps": STEPS, "labels_from": "stage:self_train"},
                        {
                            "num_steps": STEPS,
                            "labels_from": "stage:distill/0",
                            "init_from": SIMCLR,
                        },
                    ),
                },
            },
        }
    )
