"""A made-up run directory with everything the report reads."""

import json

import numpy as np
from PIL import Image

from sfda_jax.report.html import ROUND_PANEL
from sfda_jax.report.panels import CHANGES, compose_panel, label_changes
from sfda_jax.tasks import class_space

CLASSES = class_space("cityscapes19")


def street(seed, size=(128, 256)):
    """(image, ground truth) of a crude street scene."""
    rng = np.random.default_rng(seed)
    height, width = size
    rows, columns = np.mgrid[:height, :width]
    labels = np.full(size, 2, np.uint8)
    labels[rows < 0.3 * height + 6 * np.sin(columns / 17)] = 10
    road = rows > 0.6 * height
    labels[road] = 1
    labels[road & (abs(columns - width / 2) < 0.9 * (rows - 0.45 * height))] = 0
    for train_id in (13, 13, 11, 8, 5, 7):
        y, x = rng.integers(height // 3, height - 30), rng.integers(0, width - 40)
        labels[y : y + rng.integers(12, 30), x : x + rng.integers(6, 40)] = train_id
    labels[-6:] = 255
    shade = rng.normal(0, 9, (*size, 3)) + 50 * (rows / height)[:, :, None]
    colors = np.where(
        (labels == 255)[:, :, None], 20, CLASSES.palette[np.minimum(labels, 18)]
    )
    return (0.6 * colors + 40 + shade).clip(0, 255).astype(np.uint8), labels


def panel_rows(count=2):
    rows = []
    for index in range(count):
        image, labels = street(index)
        rng = np.random.default_rng(index)
        confidence = np.clip(
            np.random.default_rng(9).normal(0.8, 0.2, labels.shape), 0, 1
        )
        wrong = rng.integers(0, 19, (8, 16), dtype=np.uint8).repeat(16, 0).repeat(16, 1)
        before = np.where(rng.random(labels.shape) < 0.35, wrong, labels)
        after = np.where(rng.random(labels.shape) < 0.08, wrong, labels)
        rows.append(
            {
                "id": f"frankfurt_00000{index}_000294",
                "image": image,
                "ground_truth": labels,
                "before": np.minimum(before, 18).astype(np.uint8),
                "after": np.minimum(after, 18).astype(np.uint8),
                "pseudo_label": np.where(confidence > 0.7, labels, 255),
                "confidence": confidence.astype(np.float32),
            }
        )
    return rows


def round_record(round_, tick):
    rng = np.random.default_rng(round_)
    return {
        "tick": tick,
        "stage": "adapt",
        "round": round_,
        "step": 0,
        "event": "pseudo_labels",
        "coverage": 38.0 + 16 * round_,
        "accuracy": 92.0 - 2 * round_,
        "per_class": {
            name: {"coverage": rng.uniform(10, 90), "accuracy": rng.uniform(40, 99)}
            for name in CLASSES.names
        },
        "thresholds": {name: rng.uniform(0.5, 1) for name in CLASSES.names},
    }


def write_fake_run(folder, *, steps=900):
    rng = np.random.default_rng(0)
    before = dict(zip(CLASSES.names, rng.uniform(5, 80, 19).tolist(), strict=True))
    adabn = {k: min(97, v + rng.uniform(-2, 15)) for k, v in before.items()}
    adapted = {k: min(97, v + rng.uniform(-3, 30)) for k, v in before.items()}
    before["train"] = adabn["train"] = adapted["train"] = None

    def means(table):
        def mean(ids):
            values = [table[CLASSES.names[i]] for i in ids]
            return float(np.mean([v for v in values if v is not None]))

        return {name: mean(ids) for name, ids in CLASSES.subsets.items()}

    tables = {"source_only": before, "adabn": adabn, "adapted": adapted}
    subsets = {key: means(table) for key, table in tables.items()}
    values = {key: row["mIoU19"] for key, row in subsets.items()}
    summary = {
        "name": "g2c <demo>",
        "task": "gta5_to_cityscapes",
        "source": "gta5",
        "target": "cityscapes",
        "headline": "mIoU19",
        "network": "teacher",
        "seed": 0,
        "target_mIoU": {**values, "oracle_best": values["adapted"] + 0.8},
        "target_split": "real_val",
        "per_class": tables,
        "subsets": subsets,
        "seconds": {"source": 611.0, "adabn": 12.3, "adapt": 4000.0},
        "command": "python -m sfda_jax.main --config configs/g2c.py --workdir runs/a",
        "versions": {"jax": "0.10.2", "flax": "0.12.8", "python": "3.11"},
        "num_parameters": 43795724,
        "steps": {"source": 300, "adapt": 600},
        "source_val_mIoU": 61.0,
        "lists": {
            "source": {
                "dataset": "gta5",
                "split": "train",
                "list": "gta5_iast",
                "listed": 24941,
                "sha256": "a1b2c3d4" * 8,
                "defects": 62,
                "absent": 0,
                "used": 24879,
                "used_sha256": "e5f60718" * 8,
            }
        },
    }
    lines = []
    for tick in range(steps):
        stage = "source" if tick < steps // 3 else "adapt"
        loss = 2.2 * np.exp(-tick / 250) + 0.25 + rng.gamma(2, 0.04)
        line = {"tick": tick, "stage": stage, "round": 0, "step": tick, "wall": tick}
        line |= {"loss": loss, "lr": 2.5e-4 * (1 - tick / steps) ** 0.9}
        if stage == "adapt":
            line |= {"loss_negative": loss / 9, "kept": 0.5 + tick / 4000}
        lines.append(line)
    for tick in range(steps // 3, steps, steps // 9):
        miou = values["source_only"] + 8 * np.log1p((tick - steps // 3) / 60)
        common = {"tick": tick, "stage": "adapt", "round": 0, "step": tick}
        for network, value in (("teacher", miou), ("student", miou - 2)):
            lines.append(
                {
                    **common,
                    "event": "eval",
                    "network": network,
                    "split": "real_val",
                    "mIoU": {"mIoU19": value},
                    "iou": {},
                }
            )
    lines += [round_record(index, tick) for index, tick in enumerate((300, 500, 700))]
    # a resumed run may have said it before
    lines.append({**lines[-1], "coverage": 71.5})
    (folder / "panels").mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(summary))
    text = "\n".join(json.dumps(line) for line in lines)
    (folder / "metrics.jsonl").write_text(text + '\n{"tick": 9')
    (folder / "config.json").write_text(json.dumps({"seed": 0, "stages": {"a": 1}}))
    panel = compose_panel(panel_rows(), CLASSES)
    Image.fromarray(panel).save(folder / "panels" / "adapt_step_600.png")
    for index in range(3):
        rows = [
            {
                "id": row["id"],
                "image": row["image"],
                "ground_truth": row["ground_truth"],
                "pseudo_label": _stage_labels(row, index),
                **(
                    {
                        "changes": label_changes(
                            _stage_labels(row, index), _stage_labels(row, index - 1)
                        )
                    }
                    if index
                    else {}
                ),
            }
            for row in panel_rows()
        ]
        path = folder / "stages" / "02-adapt" / "rounds" / f"{index:02d}" / ROUND_PANEL
        path.parent.mkdir(parents=True)
        notes = CHANGES if index else {}
        panel = compose_panel(rows, CLASSES, per_line=4, cell_width=320, notes=notes)
        Image.fromarray(panel).save(path)
    return folder


def _stage_labels(row, round_):
    sure = row["confidence"] > 0.9 - 0.2 * round_
    said = row["before"] if round_ == 0 else row["after"]
    return np.where(sure, said, 255).astype(np.uint8)
