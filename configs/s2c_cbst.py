"""SYNTHIA → Cityscapes by CBST (ECCV 2018), ResNet-38 A1, released settings.

    python -m sfda_jax.main --config configs/s2c_cbst.py \
        --config.data.manual_dirs.synthia=DIR --config.data.manual_dirs.cityscapes=DIR \
        --config.stages.adapt.init_from=synthia_rna-a1_cls16_s8_ep-0000.params

Published (authors' repository): source 29.2 → 42.5 mIoU16 (48.5 mIoU13).
Hours unknown; not measured here.
The authors found the second or third of the six rounds best; every round is scored.
"""

from ml_collections import ConfigDict

from sfda_jax.methods.cbst_rounds import cbst_rounds


def get_config():
    source = {"dataset": "synthia", "train_list": "synthia_all", "variant": "synthia16"}
    cityscapes = {
        "dataset": "cityscapes",
        "train_list": "cityscapes_cbst_505",
        "variant": "synthia16",
    }
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
                "source": {**source, "train": "train"},
                "target": {**cityscapes, "train": "train", "eval": "val"},
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
                    "settings": {"long_sides": (1280, 2048)},
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
