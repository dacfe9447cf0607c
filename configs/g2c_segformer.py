"""GTA5 → Cityscapes, source-free, SegFormer-B5 as Stable-ST has it.

    python -m sfda_jax.main --config configs/g2c_segformer.py \
        --config.data.manual_dirs.gta5=DIR --config.data.manual_dirs.cityscapes=DIR \
        --config.stages.source.init_from=imagenet:mit_b5.pth

With a source model of this network add
--config.pipeline="('adapt',)" --config.stages.adapt.init_from=FILE.

Stable-ST has this network beside DeepLabV2, and for it closes both DTU and SND: the
teacher follows every 12 steps, its sure labels are learnt unweighed. Known: 7,000
steps, batch 2, EMA 0.99, jitter 0.8/0.8/0.8/0.25, cutout of 0.4 of the cells of every
crop, student's crop and test input 512×1024, 768 channels fused to 128 in the head. The
rest of the adaptation is the warm-up's of g2c.py:snd: the teacher's view of 768×1536,
candidates, SGD of 2.5e-4 with the head's rate ×10. Published numbers: not found. Not
measured here. Assumed: the head's BatchNorm frozen while adapting; all of the source
stage (AdamW of 6e-5, head ×10, 40,000 steps, as SegFormer is usually trained).
The compiler counts 21 GiB for a step of either stage; config.model.remat trades time
for memory.
"""

from ml_collections import ConfigDict

CROP = (512, 1024)


def get_config():
    train = {"train": "train"}
    cityscapes = {"dataset": "cityscapes", "train_list": "cityscapes_dtst"}
    return ConfigDict(
        {
            "name": "g2c_segformer",
            "seed": 0,
            "task": {
                "name": "gta5_to_cityscapes",
                "classes": "cityscapes19",
                "headline": "mIoU19",
                "source_free": True,
                "source": {"dataset": "gta5", "train_list": "gta5_all", **train},
                "target": {**cityscapes, **train, "eval": "val"},
            },
            "model": {"name": "segformer", "variant": "b5", "fused_channels": 128},
            "evaluation": {"size": CROP, "batch_size": 1, "every": 500},
            "pipeline": ("source", "adapt"),
            "stages": {"source": _source(), "adapt": _adapt()},
        }
    )


def _source():
    return {
        "method": "source_only",
        "init_from": "imagenet:mit_b5.pth",
        "settings": {
            "batch_size": 2,
            "size": (720, 1280),
            "crop_size": CROP,
            "flip": True,
            "sampling": "rare_class",
            "student_statistics": "batch",
        },
        "optimizer": {
            "name": "adamw",
            "learning_rate": 6e-5,
            "power": 1.0,
            "warmup_steps": 1500,
            "max_steps": 40000,
            "weight_decay": 0.01,
            "groups": "mmseg",
        },
        "rounds": ({"num_steps": 40000},),
    }


def _adapt():
    return {
        "method": "snd",
        "network": "teacher",
        "settings": {
            "meta": False,
            "batch_size": 2,
            "test_size": CROP,
            "jitter": (0.8, 0.8, 0.8, 0.25),
            "cutout_probability": 1.0,
            "cutout_ratio": 0.4,
            "ema_decay": 0.99,
            "fixed_interval": 12,
        },
        "rounds": ({"num_steps": 2999}, {"num_steps": 3000}, {"num_steps": 1001}),
    }
