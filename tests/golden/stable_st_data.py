"""Parity of the host data path with the recorded Stable-ST cases."""

import json

import numpy as np

from sfda_jax.data import image_ops
from sfda_jax.data.copy_paste import COMPANIONS_16, COMPANIONS_19, copy_paste
from sfda_jax.data.sampling import class_index, classes_present, rsc_sequence
from sfda_jax.data.strong_augment import (
    AugmentDecisions,
    strong_augment,
    strong_augment_normalised,
)

SYSTEM = "stable_st"


def check_image_ops(path):
    case = np.load(path)
    image, label = case["image"], case["label"]
    for name in ("brightness", "contrast", "saturation"):
        for factor, expected in zip(case["factors"], case[name], strict=True):
            result = getattr(image_ops, name)(image, float(factor))
            np.testing.assert_array_equal(result, expected, err_msg=name)
    for factor, expected in zip(case["hues"], case["hue"], strict=True):
        np.testing.assert_array_equal(image_ops.hue(image, float(factor)), expected)
    np.testing.assert_array_equal(image_ops.grayscale(image), case["grayscale3"])
    for sigma, expected in zip(case["sigmas"], case["blur5"], strict=True):
        blurred = image_ops.blur5(image, float(sigma))
        difference = np.abs(blurred.astype(int) - expected)
        assert difference.max() <= 1
        assert (difference > 0).mean() <= 0.005
    np.testing.assert_array_equal(image_ops.flip(image), case["hflip"])
    top, left, height, width = case["crop_i_j_h_w"].tolist()
    np.testing.assert_array_equal(
        image_ops.crop(image, (top, top + height, left, left + width)), case["crop"]
    )
    for i, size in enumerate(case["resize_sizes"].tolist()):
        for kind in ("bicubic", "bilinear"):
            np.testing.assert_array_equal(
                image_ops.resize(image, tuple(size), kind), case[f"resize_{kind}_{i}"]
            )
        np.testing.assert_array_equal(
            image_ops.resize(label, tuple(size), "nearest"),
            case[f"resize_label_nearest_{i}"],
        )
    _check_normalisation(case)


def _check_normalisation(case):
    normalised = image_ops.normalise(case["image"], "single")
    np.testing.assert_allclose(
        normalised.transpose(2, 0, 1), case["normalize"], rtol=0, atol=1e-6
    )
    np.testing.assert_allclose(
        image_ops.denormalise_float(normalised).transpose(2, 0, 1),
        case["denorm_float"],
        rtol=1e-6,
        atol=1e-6,
    )
    truncated = image_ops.denormalise(normalised)
    np.testing.assert_array_equal(truncated, case["denorm_uint8_truncated"])
    levels = image_ops.denormalised_levels("truncate")
    through_levels = levels[case["image"], np.arange(3)]
    np.testing.assert_array_equal(through_levels, case["denorm_uint8_truncated"])
    zero = case["denorm_of_zero_uint8"]
    np.testing.assert_array_equal(
        np.broadcast_to(image_ops.denormalised_zero("truncate"), zero.shape), zero
    )
    np.testing.assert_allclose(
        image_ops.normalise(truncated).transpose(2, 0, 1),
        case["renormalized"],
        rtol=0,
        atol=1e-6,
    )


def _decisions(case, k):
    sigma = float(case[f"{k}/blur_sigma"])
    grid = case[f"{k}/cutout_uniform"]
    return AugmentDecisions(
        blur_sigma=None if sigma < 0 else sigma,
        gray=bool(case[f"{k}/is_gray"]),
        jitter_order=tuple(i for i in case[f"{k}/jitter_order"].tolist() if i >= 0),
        jitter_factors=tuple(case[f"{k}/jitter_b_c_s_h"].tolist()),
        rescale_size=tuple(case[f"{k}/rescale_size"].tolist()),
        crop=tuple(case[f"{k}/crop_y1y2x1x2"].tolist()),
        flip=bool(case[f"{k}/flip"]),
        cutout_grid=grid if grid.size else None,
    )


def check_strong_augmentation(path):
    case = np.load(path)
    ratio = float(case["cutout_ratio"])
    for k in range(int(case["n"])):
        image, decisions = case[f"{k}/image"], _decisions(case, k)
        output = strong_augment_normalised(image, decisions, cutout_ratio=ratio)
        error = np.abs(output.transpose(2, 0, 1) - case[f"{k}/output"])
        assert (error <= 1e-5).mean() >= 0.995
        assert error.max() <= 0.15
        student = strong_augment(image, decisions, cutout_ratio=ratio)
        assert (student == case[f"{k}/output_uint8"]).mean() >= 0.995


class _ReplayedPaste:
    """Recorded draws of the mixer; refuses any other question than the recorded."""

    def __init__(self, uniforms, integers, boxes):
        self._uniforms, self._integers = iter(uniforms), iter(integers)
        self._boxes = iter(boxes)

    def uniform(self):
        return float(next(self._uniforms))

    def randint(self, low, high):
        asked_low, asked_high, value = next(self._integers)
        assert (asked_low, asked_high) == (low, high)
        return value

    def choice(self, boxes):
        box = tuple(next(self._boxes))
        assert box in boxes
        return box

    def assert_spent(self):
        for rest in (self._uniforms, self._integers, self._boxes):
            assert next(rest, None) is None


def check_copy_paste(path):
    case = np.load(path)
    scale_min, scale_range = case["scale_min_range"].tolist()
    for name in case["names"].tolist():
        draws = _ReplayedPaste(
            case[f"{name}/uniform_draws"].tolist(),
            case[f"{name}/randint_low_high_value"].tolist(),
            case[f"{name}/cooccur_box_draws"].tolist(),
        )
        image, labels = copy_paste(
            case[f"{name}/base_image"],
            case[f"{name}/cand_image"],
            case[f"{name}/cand_label"],
            int(case[f"{name}/target_class"]),
            companions={19: COMPANIONS_19, 16: COMPANIONS_16}[
                int(case[f"{name}/num_classes"])
            ],
            draws=draws,
            scale_min=scale_min,
            scale_range=scale_range,
        )
        draws.assert_spent()
        np.testing.assert_array_equal(image, case[f"{name}/out_image"], err_msg=name)
        np.testing.assert_array_equal(labels, case[f"{name}/out_label"], err_msg=name)


class _ReplayedSampler:
    """Recorded class draws and shuffles; keeps the probabilities it is shown."""

    def __init__(self, classes, shuffle_at, shuffled):
        self._classes = classes
        self._shuffled = dict(zip(shuffle_at, shuffled, strict=True))
        self.probs = []

    def draw_class(self, probs):
        self.probs.append(probs)
        return self._classes[len(self.probs) - 1]

    def shuffle(self, images):
        recorded = self._shuffled.pop(len(self.probs) - 1)
        recorded = recorded[recorded >= 0].astype(np.int64)
        np.testing.assert_array_equal(np.sort(recorded), np.sort(images))
        return recorded

    def assert_spent(self):
        assert len(self.probs) == len(self._classes)
        assert not self._shuffled


def check_rsc_sampler(path):
    case = np.load(path)
    presence = case["file_has_class"].astype(bool)
    sub_epoch = int(case["sub_epoch"])
    draws = _ReplayedSampler(
        case["class_draws"].tolist(),
        case["shuffle_at_draw"].tolist(),
        case["shuffle_result"],
    )
    lists = [np.flatnonzero(column) for column in presence.T]
    sequence = rsc_sequence(lists, presence, draws=draws, sub_epoch=sub_epoch)
    sub_epochs = int(int(case["max_iters"]) / sub_epoch) + 1
    emitted = [image for _ in range(sub_epochs) for image in next(sequence)]
    draws.assert_spent()
    np.testing.assert_array_equal(emitted, case["emitted_files"])
    seen = np.stack(draws.probs)[case["class_probs_draw_index"]]
    np.testing.assert_allclose(seen, case["class_probs"], rtol=0, atol=1e-9)


def check_class_index(path):
    expected = json.loads(path.read_text(encoding="utf-8"))
    masks = np.load(path.parent / "tcr_candidate.npz")["next_ctr"]
    presence = np.stack(
        [
            classes_present(
                mask,
                len(expected["label_to_file"]),
                min_pixels=expected["min_pixels"],
            )
            for mask in masks
        ]
    )
    by_class, by_id = class_index(expected["names"], presence)
    assert by_class == expected["label_to_file"]
    assert by_id == expected["file_to_label"]


CHECKERS = {
    "copy_paste.npz": check_copy_paste,
    "copy_paste_snd_val.npz": check_copy_paste,
    "image_ops.npz": check_image_ops,
    "label_info.json": check_class_index,
    "rsc_sampler.npz": check_rsc_sampler,
    "strong_aug.npz": check_strong_augmentation,
}
