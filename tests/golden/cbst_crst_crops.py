"""Training samples of CBST and CRST from recorded draws, and their source subsets."""

import functools
import json

import jax.numpy as jnp
import numpy as np

from sfda_jax.data.label_maps import LABEL_MAPS, UNMAPPED
from sfda_jax.data.mined_crop import MinedCrop
from sfda_jax.data.scaled_crop import ScaledCrop
from sfda_jax.data.source_subset import source_subset
from sfda_jax.data.training_labels import soft_labels
from sfda_jax.ops.color import normalize
from sfda_jax.types import IGNORE

SYSTEM = "cbst_crst"


class Recorded:
    """Draws in their recorded order, each checked against what is asked for."""

    def __init__(self, calls):
        self._calls = [(kind, float(np.squeeze(value))) for kind, value in calls]

    def random(self):
        kind, value = self._calls.pop(0)
        assert kind in ("rand", "uniform") and 0 <= value < 1
        return value

    def integers(self, low, high):
        kind, value = self._calls.pop(0)
        # CBST draws the class as the floor of a uniform number.
        assert kind in ("randint", "np.choice", "uniform")
        value = int(value)
        assert low <= value < high, (kind, value, low, high)
        return value

    def used_up(self):
        return not self._calls


def _normalised(images, valid=None):
    normalised = np.asarray(normalize(jnp.asarray(images), "imagenet"))
    if valid is not None:
        normalised = np.where(valid[..., None], normalised, np.float32(0))
    return normalised.transpose(2, 0, 1)


def check_cbst_loader(path):
    case = np.load(path)
    domains = ("src", "tgt")
    crop = MinedCrop(
        crop_size=int(case["crop_size"]),
        scale_range=tuple(float(s) for s in case["scale_rate_range"]),
        long_sides=tuple(int(case[f"max_shape_{d}"].max()) for d in domains),
        origin_sizes=tuple(int(case[f"origin_size_{d}"]) for d in domains),
        stride=int(case["feat_stride"]),
        mine_probability=float(case["mine_port"]),
        priority=tuple(case["mine_id_priority"].tolist()),
        others=tuple(case["mine_id"].tolist()),
    )
    assert crop.size == case["crop_size_divisible"]
    draws = json.loads(str(case["draws_json"]))
    for batch, calls in enumerate(draws):
        recorded = Recorded(calls)
        for row, example in enumerate(case["batches"][batch]):
            domain = domains[case["origin"][example]]
            number = int("".join(filter(str.isdigit, str(case["order"][example]))))
            table = case[f"label_map_{domain}"].astype(np.uint8)
            labels = table[case[f"{domain}_labels"][number]]
            image = case[f"{domain}_images"][number]
            decisions = crop.draw(recorded, labels, target=domain == "tgt")
            image, labels = crop.apply(image, labels, decisions)
            np.testing.assert_array_equal(
                labels.ravel(), case["label"][batch, row].astype(np.uint8)
            )
            np.testing.assert_allclose(
                _normalised(image), case["data"][batch, row], rtol=0, atol=1e-4
            )
        assert recorded.used_up()


def check_crst_loader(path):
    case = np.load(path)
    target, soft = "mine_chance" in case, case["label"].ndim == 4
    crop = ScaledCrop(
        size=tuple(int(side) for side in case["crop"]),
        scale_range=tuple(case["train_scale"].tolist())
        if case["scale"]
        else (1.0, 1.0),
        flip=bool(case["mirror"]),
        mine_probability=float(case["mine_chance"]) if target else 0.0,
        priority=tuple(int(c) for c in case["mine_id"]) if target else (),
    )
    draws = json.loads(str(case["draws_json"]))
    for row, index in enumerate(case["index"]):
        labels = _train_ids(case["labels_labelid"][index], case, target)
        recorded = Recorded(draws[row])
        decisions = crop.draw(recorded, labels, target=target)
        assert recorded.used_up()
        image, valid, hard = crop.apply(case["images_rgb"][index], labels, decisions)
        atol = 0
        found = hard.astype(np.float32)
        if soft:
            atol = (1e-5 if case["scale"] else 1e-6) if target else 0
            domain = "target" if target else "source"
            found = soft_labels(
                {"id": index, "domain": domain, "label": labels},
                lambda i: case["soft_in"][i],
                hard,
                num_classes=int(case["num_classes"]),
                crop=functools.partial(
                    crop.apply_soft, size=labels.shape, decisions=decisions
                ),
            )
        found = np.moveaxis(found, 2, 0) if soft else found
        np.testing.assert_allclose(found, case["label"][row], rtol=0, atol=atol)
        np.testing.assert_allclose(
            _normalised(image, valid), case["image"][row], rtol=0, atol=2e-5
        )


def _train_ids(labels, case, target):
    num_classes = int(case["num_classes"])
    space = {19: "cityscapes19", 16: "synthia16"}[num_classes]
    synthia = num_classes == 16 and not target
    table = LABEL_MAPS["synthia" if synthia else "cityscapes", space].copy()
    table[table == UNMAPPED] = IGNORE
    if synthia:
        table[22] = 0  # CRST counts lane markings as road
    return table[labels]


def check_source_sampling(path):
    case = np.load(path)
    numbers = [key.removeprefix("sel") for key in case.files if key.startswith("sel")]
    assert numbers
    for j in numbers:
        chosen = source_subset(
            int(case[f"n{j}"]), float(case[f"port{j}"]), int(case[f"seed{j}"])
        )
        assert len(chosen) == case[f"num{j}"]
        np.testing.assert_array_equal(chosen, case[f"sel{j}"])


CHECKERS = {
    "cbst_loader_*.npz": check_cbst_loader,
    "crst_loader_*.npz": check_crst_loader,
    "src_sampling*.npz": check_source_sampling,
}
