"""SYNTHIA → Cityscapes by plain self-training (ST), ResNet-38 A1.

    python -m sfda_jax.main --config configs/s2c_st.py \
        --config.data.manual_dirs.synthia=DIR --config.data.manual_dirs.cityscapes=DIR \
        --config.stages.adapt.init_from=synthia_rna-a1_cls16_s8_ep-0000.params

Published (authors' repository): source 29.2 → 32.2 mIoU16 (36.9 mIoU13).
Hours unknown; not measured here.
One threshold for all classes; all class sizes are then equal, so that mining looks
for the classes with the smallest ids, as in the published command.
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
            "name": "s2c_st",
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
                    "settings": {
                        "selector": {"policy": "global"},
                        "long_sides": (1280, 2048),
                    },
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
