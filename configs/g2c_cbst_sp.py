"""GTA5 → Cityscapes by CBST-SP (ECCV 2018): spatial priors, ResNet-38 A1.

    python -m sfda_jax.main --config configs/g2c_cbst_sp.py \
        --config.data.manual_dirs.gta5=DIR --config.data.manual_dirs.cityscapes=DIR \
        --config.stages.adapt.init_from=gta_rna-a1_cls19_s8_ep-0000.params

Published (authors' repository): source 35.4 → 46.2 mIoU19; 47.0 at several scales
(paper). Hours unknown; not measured here.
The published prior file was never described; here the prior is made of the source's
labels. To use that file: --config.stages.adapt.settings.prior=prior_array.mat
"""

from ml_collections import ConfigDict

from sfda_jax.methods.cbst_rounds import cbst_rounds


def get_config():
    source = {"dataset": "gta5", "train_list": "gta5_all"}
    cityscapes = {"dataset": "cityscapes", "train_list": "cityscapes_cbst_505"}
    images = {"num_source": 24966, "num_target": 505}
    return ConfigDict(
        {
            "name": "g2c_cbst_sp",
            "seed": 0,
            "task": {
                "name": "gta5_to_cityscapes",
                "classes": "cityscapes19",
                "headline": "mIoU19",
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
                    "init_from": "gta_rna-a1_cls19_s8_ep-0000.params",
                    "settings": {"prior": "source"},
                    "optimizer": {
                        "name": "mxnet_sgd",
                        "schedule": "constant",
                        "groups": "cbst",
                    },
                    "fresh_optimizer": True,
                    "rounds": tuple(cbst_rounds(portion=0.15, **images)),
                },
            },
        }
    )
