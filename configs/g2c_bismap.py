"""GTA5 → Cityscapes by BiSMAP (ACM MM 2022), settings of the released code.

    python -m sfda_jax.main --config configs/g2c_bismap.py \
        --config.data.manual_dirs.gta5=STYLISED --config.data.manual_dirs.cityscapes=DIR

STYLISED is GTA5 with its images in Cityscapes' style: the authors' `gta_stylized` (the
same file names) in the place of `images/`. Needed in the working directory: ImageNet's
resnet101-5d3b4d8f.pth, SimCLRv2's r152_1x_sk1.pth and r101_1x_sk0.pth.

Published mIoU19 on Cityscapes val: 61.2, after the source's weight maps (stm), a
warm-up [U: its settings were not released], prototypes and their labels, self-training
and two self-distillations. The released code keeps the networks that are best on
labelled val; here every stage ends with its last. Hours unknown, not measured here.

Source-free (g2c_bismap.py:source_free; nobody published numbers for it): prototypes
from target features, self-training from the source model, no source image anywhere.
With the prototypes of the source's owner, a `mixtures.npz` or the published folder:

    … --config.stages.prototypes.settings.prototypes=load \
      --config.stages.prototypes.settings.prototypes_from=mixtures.npz
"""

from ml_collections import ConfigDict

VARIANTS = ("published", "source_free")
IMAGENET = "imagenet:resnet101-5d3b4d8f.pth"
SIMCLR = "imagenet:r101_1x_sk0.pth"
STEPS = 90_000


def get_config(variant):
    free = variant == "source_free"
    pipeline = ("stm", "warmup", "prototypes", "self_train", "distill")
    both = {"weights_of": "stage:stm"}
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
            "name": "g2c_bismap",
            "seed": 0,
            "task": {
                "name": "gta5_to_cityscapes",
                "classes": "cityscapes19",
                "headline": "mIoU19",
                "source_free": free,
                "source": {"dataset": "gta5", "train": "train", "eval": ""},
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
                    "settings": {},
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
                    "init_from": "gta5_warmup_model.pkl" if free else "previous",
                    "settings": {"prototypes": "fit_target" if free else "fit_source"},
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
