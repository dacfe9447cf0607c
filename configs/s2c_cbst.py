"""SYNTHIA → Cityscapes by CBST (ECCV 2018), ResNet-38 A1, released settings.

    python -m sfda_jax.main --config configs/s2c_cbst.py \
        --config.data.manual_dirs.synthia=DIR --config.data.manual_dirs.cityscapes=DIR \
        --config.stages.adapt.init_from=synthia_rna-a1_cls16_s8_ep-0000.params

Published mIoU16 (mIoU13; authors' repository), source 29.2. Variants
(s2c_cbst.py:NAME):

    cbst  42.5 (48.5)  class-balanced thresholds (default)
    st    32.2 (36.9)  one threshold for all classes

The authors found the second or third of the six rounds best; every round is scored.
Hours unknown; neither measured here.
st: all class sizes are then equal, so that mining looks for the classes with the
smallest ids, as in the published command.
"""

from ml_collections import ConfigDict

from sfda_jax.methods.cbst_rounds import cbst_rounds

VARIANTS = ("cbst", "st")


def get_config(variant):
    classes = {"variant": "synthia16", "train": "train"}
    source = {"dataset": "synthia", "train_list": "synthia_all", **classes}
    target = {"dataset": "cityscapes", "train_list": "cityscapes_cbst_505", **classes}
    policy = {"cbst": {}, "st": {"selector": {"policy": "global"}}}[variant]
    images = {"num_source": 9400, "num_target": 505}
    return ConfigDict(
        {
            "name": "s2c_cbst",
            "seed": 0,
            "task": {
                "name": "synthia_to_cityscapes",
                "classes": "synthia16",
                "headline": "mIoU16",
                "source_free": False,
                "source": source,
                "target": {**target, "eval": "val"},
            },
            "model": {"name": "wide_resnet38"},
            "evaluation": {
                "size": (2048,),
                "resample": "rule",
                "flip": True,
                "average": "class_maps",
                "absent_classes": "zero",
                "batch_size": 1,
            },
            "pipeline": ("adapt",),
            "stages": {
                "adapt": {
                    "method": "cbst",
                    "init_from": "synthia_rna-a1_cls16_s8_ep-0000.params",
                    "settings": {**policy, "long_sides": (1280, 2048)},
                    "optimizer": {
                        "name": "mxnet_sgd",
                        "schedule": "constant",
                        "groups": "cbst",
                    },
                    "fresh_optimizer": True,
                    "rounds": tuple(cbst_rounds(source_portion=0.02, **images)),
                },
            },
        }
    )
