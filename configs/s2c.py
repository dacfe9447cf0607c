"""SYNTHIA → Cityscapes, source-free, released settings of the Stable-ST family, R101.

    python -m sfda_jax.main --config configs/s2c.py \
        --config.data.manual_dirs.cityscapes=DIR \
        --config.stages.adapt.init_from=S2C_model_iter020000.pth

Variants (s2c.py:NAME), as in configs/g2c.py, which says how to train the source model:

    dtst       DT-ST (default). Published (CVPR 2023, Table 2; Cityscapes val, teacher):
               plain source 33.1 → 47.7 mIoU16 (55.8 mIoU13); domain-generalised
               37.8 → 50.7 (58.8).
    snd        SND; set --config.stages.warmup.init_from too. The release starts from a
               model of GTA5 and SYNTHIA that it does not describe.
    stable_st  both in one run.

None of them measured here.
"""

from ml_collections import ConfigDict

VARIANTS = ("dtst", "snd", "stable_st")
SOURCE = "S2C_model_iter020000.pth"
FULL, CROP = (640, 1280), (480, 960)
# Before every multiple of 2000 and of 3000; released: for the last step, too.
REFRESHES = (1999, 1000, 1000, 2000, 2000, 1000, 1001)


def get_config(variant):
    train = {"train": "train", "variant": "synthia16"}
    synthia = {"dataset": "synthia", "train_list": "synthia_all", **train}
    cityscapes = {"dataset": "cityscapes", "train_list": "cityscapes_dtst", **train}
    return ConfigDict(
        {
            "name": "s2c",
            "seed": 0,
            "task": {
                "name": "synthia_to_cityscapes",
                "classes": "synthia16",
                "headline": "mIoU16",
                "source_free": True,
                "source": synthia,
                "target": {**cityscapes, "eval": "val"},
            },
            "model": {"name": "deeplab_v2"},
            "evaluation": {"size": FULL, "batch_size": 1, "every": 1000},
            "pipeline": ("warmup", "adapt") if variant == "snd" else ("adapt",),
            "stages": {
                "source": {
                    "method": "source_only",
                    "settings": {
                        "batch_size": 8,
                        "size": (760, 1280),
                        "scale_range": (0.75, 1.25),
                        "crop_size": (512, 960),
                    },
                    "optimizer": {"learning_rate": 5e-4, "max_steps": 31250},
                    "rounds": ({"num_steps": 20000},),
                },
                **{"dtst": _dtst, "snd": _snd, "stable_st": _stable_st}[variant](),
            },
        }
    )


def _stage(method, settings, steps):
    """A stage whose candidates are made anew before each of its rounds."""
    sizes = {"full_size": FULL, "crop_size": CROP, "test_size": FULL}
    return {
        "method": method,
        "init_from": SOURCE,
        "network": "teacher",
        "settings": {**sizes, **settings},
        "rounds": tuple({"num_steps": count} for count in steps),
    }


def _dtst():
    settings = {"scale": (0.75, 1.75)}
    return {"adapt": _stage("dtst", settings, (2999, *(3000,) * 5, 2001))}


def _snd():
    every_12 = {"ema_decay": 0.99, "fixed_interval": 12}
    warmup = {"meta": False, "stable_share": 0.05, **every_12}
    return {
        "warmup": _stage("snd", warmup, (7999, 1001)),
        "adapt": _stage("snd", {"sets_from": "stage:warmup", **every_12}, REFRESHES),
    }


def _stable_st():
    return {"adapt": _stage("snd", {"ema_decay": 0.99, "dynamic": True}, REFRESHES)}
