"""GTA5 → Cityscapes by DT-ST, published hyper-parameters, from a source checkpoint.

    python -m sfda_jax.main --config configs/g2c.py \
        --config.data.manual_dirs.cityscapes=DIR \
        --config.stages.adapt.init_from=G2C_model_iter020000.pth

Published (DT-ST, CVPR 2023, Table 1; R101, Cityscapes val, teacher): source 43.3 → 55.4
mIoU19 from the domain-generalised source model, 36.8 → 52.1 from the plain one.
One 24 GB GPU: about 16.5 GB and 14 hours in the authors' log. Not measured here.

Without a source checkpoint, train one first (GTA5 and an ImageNet ResNet-101 needed):

    … --config.pipeline="('source', 'adapt')" --config.data.manual_dirs.gta5=DIR \
        --config.stages.source.init_from=imagenet:resnet101-5d3b4d8f.pth \
        --config.stages.adapt.init_from=previous
"""

from ml_collections import ConfigDict


def get_config():
    train = {"train": "train"}
    cityscapes = {"dataset": "cityscapes", "train_list": "cityscapes_dtst"}
    return ConfigDict(
        {
            "name": "g2c",
            "seed": 0,
            "task": {
                "name": "gta5_to_cityscapes",
                "classes": "cityscapes19",
                "headline": "mIoU19",
                "source_free": True,
                "source": {"dataset": "gta5", "train_list": "gta5_all", **train},
                "target": {**cityscapes, **train, "eval": "val"},
            },
            "model": {"name": "deeplab_v2"},
            "evaluation": {"size": (768, 1536), "batch_size": 1, "every": 1000},
            "pipeline": ("adapt",),
            "stages": {
                "source": {
                    "method": "source_only",
                    "settings": {"size": (720, 1280), "sampling": "rare_class"},
                    "optimizer": {"learning_rate": 5e-4, "max_steps": 31250},
                    "rounds": ({"num_steps": 20000},),
                },
                "adapt": {
                    "method": "dtst",
                    "init_from": "G2C_model_iter020000.pth",
                    "network": "teacher",
                    "rounds": (
                        {"num_steps": 2999},
                        *({"num_steps": 3000} for _ in range(5)),
                        {"num_steps": 2001},
                    ),
                },
            },
        }
    )
