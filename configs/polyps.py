"""Polyps in colonoscopy, ETIS-Larib → EndoScene, source-free, 2 classes, R101.

    python -m sfda_jax.main --config configs/polyps.py \
        --config.data.manual_dirs.polyps=DIR \
        --config.stages.source.init_from=imagenet:resnet101-5d3b4d8f.pth

Variants (polyps.py:NAME): dtst (default), snd, stable_st; reverse is dtst from
EndoScene to ETIS-Larib. Tables show Dice beside IoU, and the polyp's means over images.

Stable-ST names this task. Known: the two collections, 256×256, no colour jitter but a
tenth of the images grey, source training with 5e-4, 10,000 steps, batch 4. The
direction is not certain; published numbers, splits and metric: not found. Not measured
here. Assumed: a collection is used whole and scored on the images it was adapted to
(with folders train and test in it add
--config.task.target.train=endoscene_train --config.task.target.eval=endoscene_test);
7,000 steps, the shortest published adaptation; crops of 192, all that a scale of 0.75
leaves; nothing pasted, images drawn uniformly (the release has no mixer for this task);
no negative learning: of two classes it would rule out one for every pixel.
The compiler counts 2.2 GiB for a step of adaptation (dtst), 2.3 for the source's.
"""

from ml_collections import ConfigDict

VARIANTS = ("dtst", "snd", "stable_st", "reverse")
FULL, CROP = (256, 256), (192, 192)


def get_config(variant):
    source, target = "etis", "endoscene"
    if variant == "reverse":
        source, target = target, source
    stages = {"source": _source(), **_adaptation(variant)}
    polyps = {"dataset": "polyps"}
    return ConfigDict(
        {
            "name": "polyps",
            "seed": 0,
            "task": {
                "name": f"{source}_to_{target}",
                "classes": "polyp2",
                "headline": "IoU_polyp",
                "source_free": True,
                "source": {**polyps, "train": source, "eval": ""},
                "target": {**polyps, "train": target, "eval": target},
            },
            "model": {"name": "deeplab_v2"},
            "evaluation": {"size": FULL, "batch_size": 4, "every": 1000},
            "pipeline": tuple(stages),
            "stages": stages,
        }
    )


def _source():
    return {
        "method": "source_only",
        "init_from": "imagenet:resnet101-5d3b4d8f.pth",
        "settings": {"batch_size": 4, "size": FULL},
        "optimizer": {"learning_rate": 5e-4, "max_steps": 31250},
        "rounds": ({"num_steps": 10000},),
    }


def _adaptation(variant):
    every_12 = {"ema_decay": 0.99, "fixed_interval": 12}
    if variant == "snd":
        warmup = _stage("snd", meta=False, stable_share=0.25, **every_12)
        return {
            "warmup": warmup,
            "adapt": _stage("snd", sets_from="stage:warmup", **every_12),
        }
    if variant == "stable_st":
        settings = {"ema_decay": 0.99, "dynamic": True, "stable_share": 0.05}
        return {"adapt": _stage("snd", **settings)}
    return {"adapt": _stage("dtst", negative_weight=0.0)}


def _stage(method, **settings):
    sizes = {"full_size": FULL, "crop_size": CROP, "test_size": FULL}
    return {
        "method": method,
        "init_from": "stage:source",
        "network": "teacher",
        "settings": {
            **sizes,
            "candidate_size": FULL,
            "jitter": (0.0, 0.0, 0.0, 0.0),
            "mix_classes": (),
            "sampling": "uniform",
            **settings,
        },
        "rounds": ({"num_steps": 2999}, {"num_steps": 3000}, {"num_steps": 1001}),
    }
