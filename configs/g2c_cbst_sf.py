"""GTA5 → Cityscapes by CBST without the source, ResNet-38 A1; our own baseline.

    python -m sfda_jax.main --config configs/g2c_cbst_sf.py \
        --config.data.manual_dirs.cityscapes=DIR \
        --config.stages.adapt.init_from=gta_rna-a1_cls19_s8_ep-0000.params

No published number: the authors train with source images. Two short rounds, whose
learning rate and epochs are guesses. Not measured here.
A class that is not predicted cannot return (its threshold is 1); try
--config.stages.adapt.settings.selector.k_absent=0.9.
"""

from ml_collections import ConfigDict

from sfda_jax.methods.cbst_rounds import cbst_rounds


def get_config():
    cityscapes = {"dataset": "cityscapes", "train_list": "cityscapes_cbst_505"}
    images = {"num_source": 0, "num_target": 505}
    return ConfigDict(
        {
            "name": "g2c_cbst_sf",
            "seed": 0,
            "task": {
                "name": "gta5_to_cityscapes",
                "classes": "cityscapes19",
                "headline": "mIoU19",
                "source_free": True,
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
                    "init_from": "gta_rna-a1_cls19_s8_ep-0000.params",
                    "settings": {"source_portion": 0.0},
                    "optimizer": {
                        "name": "mxnet_sgd",
                        "schedule": "constant",
                        "groups": "cbst",
                    },
                    "fresh_optimizer": True,
                    "rounds": tuple(
                        cbst_rounds(2, learning_rate=5e-5, epochs=1, **images)
                    ),
                },
            },
        }
    )
