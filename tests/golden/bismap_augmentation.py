"""BiSMAP's labels, resizing, colours, crops and whole training samples."""

import math

import numpy as np

from sfda_jax.data import image_ops
from sfda_jax.data.crop_geometry import CropGeometry
from sfda_jax.data.label_maps import LABEL_MAPS
from sfda_jax.data.occluded_view import OccludedDecisions, OccludedView
from sfda_jax.data.rand_augment import OPERATIONS, rand_augment
from sfda_jax.data.retried_crop import RetriedCrop, RetriedDecisions
from sfda_jax.data.training_labels import training_labels
from sfda_jax.ops.color import normalize
from sfda_jax.types import IGNORE
from tests.golden.published_weights import nchw

SYSTEM = "bismap"
_PUBLISHED_IGNORE = 250
# Published ids of each dataset; others are a fault here, and pass or vanish there.
_PUBLISHED_IDS = {"gta5": 35, "cityscapes": 34, "synthia": 23}
_SCHEMES = {
    "gta5": "imagenet",
    "cityscapes": "imagenet",
    "synthia": "imagenet_mean_twice",
}
_RAND_AUGMENT = (
    *("AutoContrast", "Brightness", "Color", "Contrast", "Equalize", "Identity"),
    *("Posterize", "Sharpness", "Solarize"),
)


def our_ids(labels):
    """Their train ids with our value for ignored pixels."""
    return np.where(labels == _PUBLISHED_IGNORE, IGNORE, labels).astype(np.uint8)


def train_ids(dataset, labels):
    """Train ids of a published label file."""
    return LABEL_MAPS[dataset, "cityscapes19"][labels]


def swapped(pair):
    """(height, width) of (width, height)."""
    return int(pair[1]), int(pair[0])


class _Recorded:
    """A generator whose integers are those recorded, and that knows their ranges."""

    def __init__(self, integers):
        self._left = list(integers)
        self.highest = []

    def random(self):
        raise AssertionError("no uniform number was recorded")

    def integers(self, low, high):
        assert low == 0
        self.highest.append(high - 1)
        return self._left.pop(0)

    @property
    def used_up(self):
        return not self._left


def check_label_encoding(path):
    case = np.load(path)
    raw = case["raw_ids"]
    for dataset, count in _PUBLISHED_IDS.items():
        expected = our_ids(case[dataset])[raw < count]
        found = train_ids(dataset, raw[raw < count])
        np.testing.assert_array_equal(found, expected)
    for dataset, scheme in _SCHEMES.items():
        found = nchw(normalize(case["image_u8"][None], scheme))[0]
        np.testing.assert_allclose(found, case[f"norm_{dataset}"], rtol=0, atol=1e-6)


def check_resize(path):
    case = np.load(path)
    for i, size in enumerate(map(swapped, case["sizes_wh"])):
        for stored, result, how in (
            ("image", "img", "bilinear"),
            ("label", "lab", "nearest"),
        ):
            found = image_ops.resize(case[stored], size, how)
            np.testing.assert_array_equal(found, case[f"{result}{i}"])


def check_color_jitter(path):
    case = np.load(path)
    for operation in image_ops.JITTER:
        name = operation.__name__
        for factor, expected in zip(
            case[f"{name}_factors"].tolist(), case[name], strict=True
        ):
            found = operation(case["image"], factor)
            np.testing.assert_array_equal(found, expected, err_msg=f"{name} {factor}")


def check_rand_augment(path):
    case = np.load(path)
    assert len(OPERATIONS) == len(_RAND_AUGMENT)
    for index, name in enumerate(_RAND_AUGMENT):
        for strength, expected in zip(case["v"].tolist(), case[name], strict=True):
            found = rand_augment(case["image"], [(index, strength)])
            np.testing.assert_array_equal(found, expected, err_msg=f"{name} {strength}")


def drawn_corner(crop, labels, tries):
    """The corner that the recorded tries (x, y) lead to, all of them needed."""
    draws = _Recorded(np.asarray(tries, int).ravel().tolist())
    corner = crop.draw_corner(draws, labels)
    assert draws.used_up
    room = [h - c for h, c in zip(labels.shape, crop.crop_size, strict=True)]
    assert draws.highest == [room[1], room[0]] * len(tries)
    return corner


def check_crop(path):
    case = np.load(path)
    image, labels = case["image"], our_ids(case["label"])
    crop = RetriedCrop(
        crop_size=swapped(case["crop_wh"]), max_share=float(case["max_ratio"])
    )
    corner = drawn_corner(crop, labels, case["tries"])
    x1, y1, x2, y2 = case["box_x1y1x2y2"].tolist()
    assert (y1, x1) == (corner or (0, 0))
    assert (y2 - y1, x2 - x1) == crop.crop_size
    geometry = CropGeometry(
        rescale_size=labels.shape,
        crop_size=crop.crop_size,
        corner=corner,
        flip=False,
    )
    found = geometry.cut(image, "bilinear")
    np.testing.assert_array_equal(found, case["out_image"])
    found = geometry.cut(labels, "nearest")
    np.testing.assert_array_equal(found, our_ids(case["out_label"]))


def check_replay(path):
    case = np.load(path)
    image = case["image_f32"].transpose(1, 2, 0)
    for i, params in enumerate(case["params_w_h_x1_y1_x2_y2_flip"].tolist()):
        width, height, x1, y1, x2, y2, flip = params
        geometry = CropGeometry(
            rescale_size=(height, width),
            crop_size=(y2 - y1, x2 - x1),
            corner=(y1, x1),
            flip=bool(flip),
        )
        found = geometry.nearest(case["map_u8"], case["map_u8"].shape)
        np.testing.assert_array_equal(found, case[f"map{i}"])
        found = geometry.bilinear(image).transpose(2, 0, 1)
        np.testing.assert_allclose(found, case[f"img{i}"], rtol=0, atol=1e-3)


def replayed(case, crop, labels):
    """The decisions of a recorded sample, and what the sampler makes of its draws."""
    size = swapped(case["resized_wh"])
    assert crop.rescale_size(labels.shape, float(case["scale_draw"])) == size
    assert bool(case["flipped"]) == (float(case["flip_draw"]) < crop.flip_probability)
    rescaled = image_ops.resize(labels, size, "nearest")
    corner = drawn_corner(crop, rescaled, case["crop_tries_xy"])
    geometry = CropGeometry(
        rescale_size=size,
        crop_size=crop.crop_size,
        corner=corner,
        flip=bool(case["flipped"]),
    )
    jitter = tuple(float(case[f.__name__]) for f in image_ops.JITTER)
    return RetriedDecisions(geometry=geometry, jitter=jitter)


def check_sample(case, crop, labels, decisions):
    """The first view of a sample; `labels` are of the full size."""
    image = crop.full_image(case["image_u8"])
    image, labels = crop.apply(image, labels, decisions)
    found = nchw(normalize(image[None]))[0]
    np.testing.assert_allclose(found, case["out_image"], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(labels, our_ids(case["out_label"]))


def check_source(path):
    case = np.load(path)
    width = int(case["resized_wh"][0])
    crop = RetriedCrop(
        full_size=swapped(case["canvas_wh"]),
        # not recorded: the least that gives this width
        base_width=math.ceil(width / float(case["scale_draw"])),
        crop_size=case["out_label"].shape,
    )
    stored = train_ids("gta5", case["label_file"])
    full = {"id": "a", "label": stored, "image": crop.full_image(case["image_u8"])}
    labels = training_labels(full, None)
    decisions = replayed(case, crop, labels)
    check_sample(case, crop, labels, decisions)
    found = crop.apply_weights(case["map_u8"], labels.shape, decisions.geometry)
    np.testing.assert_allclose(found, case["out_map"], rtol=0, atol=1e-6)


def check_second_view(case, crop, geometry):
    view = OccludedView(crop=crop, operations=len(case["randaug_v"]))
    rows = zip(
        case["randaug_op_index"].tolist(), case["randaug_v"].tolist(), strict=True
    )
    kept = case["randaug_applied"].tolist()
    column, row = case["cutout_draw_xy"].tolist()
    decisions = OccludedDecisions(
        choices=tuple(c for c, applied in zip(rows, kept, strict=True) if applied),
        centre=(row, column),
    )
    seen, occluded = view.apply(case["image_u8"], geometry, decisions)
    np.testing.assert_array_equal(occluded, case["out_mask"])
    found = seen.transpose(2, 0, 1)
    np.testing.assert_allclose(found, case["out_masked_img"], rtol=0, atol=1e-5)


def check_target(path):
    case = np.load(path)
    crop = RetriedCrop(full_size=(), base_width=0, crop_size=case["out_label"].shape)
    labels = our_ids(case["label_file"])
    decisions = replayed(case, crop, labels)
    check_sample(case, crop, labels, decisions)
    check_second_view(case, crop, decisions.geometry)


def check_evaluation_sample(path):
    case = np.load(path)
    labels = train_ids("cityscapes", case["label_file"])
    crop = RetriedCrop(full_size=(), base_width=0, crop_size=labels.shape)
    geometry = CropGeometry(
        rescale_size=labels.shape, crop_size=labels.shape, corner=None, flip=False
    )
    decisions = RetriedDecisions(geometry=geometry, jitter=(None,) * 4)
    check_sample(case, crop, labels, decisions)
    check_second_view(case, crop, geometry)


CHECKERS = {
    "label_encoding.npz": check_label_encoding,
    "aug_pil_resize*.npz": check_resize,
    "aug_color_jitter*.npz": check_color_jitter,
    "aug_randaugment_ops*.npz": check_rand_augment,
    "aug_crop*.npz": check_crop,
    "aug_replay_on_maps*.npz": check_replay,
    "aug_item_source_train*.npz": check_source,
    "aug_item_target_train*.npz": check_target,
    "aug_item_target_eval*.npz": check_evaluation_sample,
}
