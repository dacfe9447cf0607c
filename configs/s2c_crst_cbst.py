"""SYNTHIA → Cityscapes by CBST (ICCV 2019), DeepLabV2-R101.

    python -m sfda_jax.main --config configs/s2c_crst_cbst.py \
        --config.data.manual_dirs.synthia=DIR --config.data.manual_dirs.cityscapes=DIR \
        --config.stages.adapt.init_from=synthia_source.pth

Not a published configuration: the released code cannot run SYNTHIA. These are its
GTA5 settings; literature lists 42.6 mIoU16 (from memory). Not measured here.
"""

from ml_collections import ConfigDict

from sfda_jax.methods.cbst_rounds import crst_rounds
from sfda_jax.models.deeplab_v2 import PUBLISHED


def get_config():
    source = {
        "dataset": "synthia",
        "train_list": "synthia_all",
        "variant": "synthia16-lanes_as_road",
    }
    cityscapes = {
        "dataset": "cityscapes",
        "train_list": "cityscapes_cbst_505",
        "variant": "synthia16",
    }
    images = {"num_source": 9400, "num_target": 505}
    label_size = (1024, 2048)
    scaled = {"size": (), "scale": 0.9, "resample": "opencv", "enlarge": "logits"}
    return ConfigDict(
        {
            "name": "s2c_crst_cbst",
            "seed": 0,
            "task": {
                "name": "synthia_to_cityscapes",
                "classes": "synthia16",
                "headline": "mIoU16",
                "source_free": False,
                "source": {**source, "train": "train"},
                "target": {**cityscapes, "train": "train", "eval": "val"},
            },
            "model": {"name": "deeplab_v2", **PUBLISHED["crst"]},
            "evaluation": {
                "size": (),
                "scales": (0.9, 1.0, 1.2),
                "flip": True,
                "average": "logits",
                "absent_classes": "zero",
                "batch_size": 1,
            },
            "pipeline": ("adapt",),
            "stages": {
                "adapt": {
                    "method": "cbst",
                    "init_from": "synthia_source.pth",
                    "settings": {
                        "selector": {"extra_zero": False, "sizes": "pixels"},
                        "inference": {**scaled, "flip": True, "label_size": label_size},
                        "crop": "crst",
                        "crop_size": (512, 1024),
                        "scale_range": (0.5, 1.5),
                        "mine_number": 0,
                        "mine_source": False,
                        "loss_size": "crop",
                    },
                    "optimizer": {
                        "learning_rate": 5e-5,
                        "schedule": "constant",
                        "visits": "published",
                    },
                    "fresh_optimizer": True,
                    "rounds": tuple(crst_rounds(**images)),
                },
            },
        }
    )
