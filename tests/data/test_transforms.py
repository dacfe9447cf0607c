import dataclasses
import pickle

import numpy as np
import pytest

from sfda_jax.data import image_ops
from sfda_jax.data.copy_paste import COMPANIONS_19
from sfda_jax.data.strong_augment import AugmentSettings
from sfda_jax.data.transforms import DtstTrain, Evaluate, Resize, SourceTrain
from sfda_jax.errors import ConfigError, DataError


def _image(height=40, width=60, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def _record(**extra):
    label = np.arange(40 * 60, dtype=np.uint32).reshape(40, 60) % 11
    return {"image": _image(), "label": label.astype(np.uint8), "id": "a", **extra}


def _rng(seed=0):
    return np.random.default_rng(seed)


def test_evaluate_resizes_the_image_only():
    record = _record()
    arrays = Evaluate(size=(20, 30))(record, _rng())
    np.testing.assert_array_equal(
        arrays["images"], image_ops.resize(record["image"], (20, 30), "bicubic")
    )
    assert arrays["labels"] is record["label"]
    assert set(Evaluate()({"image": _image(), "id": "a"}, _rng())) == {"images"}


def test_resize_gives_images_only():
    assert set(Resize(size=(20, 30))(_record(), _rng())) == {"images"}


def test_source_train_without_options_is_the_record():
    record = _record()
    arrays = SourceTrain()(record, _rng())
    np.testing.assert_array_equal(arrays["images"], record["image"])
    np.testing.assert_array_equal(arrays["labels"], record["label"])


def test_source_train_keeps_image_and_label_aligned():
    value = (np.arange(60) * 4).astype(np.uint8)
    label = np.tile(value, (40, 1))
    record = {"image": np.repeat(label[..., None], 3, 2), "label": label, "id": "a"}
    transform = SourceTrain(crop=(16, 24), flip=True)
    for seed in range(8):
        arrays = transform(record, _rng(seed))
        assert arrays["images"].shape == (16, 24, 3)
        np.testing.assert_array_equal(arrays["images"][..., 0], arrays["labels"])


def test_source_train_pads_with_ignore():
    transform = SourceTrain(size=(20, 30), scale_range=(0.5, 0.5), crop=(16, 24))
    arrays = transform(_record(), _rng())
    assert arrays["labels"].shape == (16, 24)
    empty = arrays["labels"] == 255
    assert empty.any()
    assert not arrays["images"][empty].any()


def test_source_train_gray_quirk():
    arrays = SourceTrain(gray_probability=1.0, jitter=(0.5,) * 4)(_record(), _rng())
    assert (np.ptp(arrays["images"], axis=-1) == 0).all()


def test_source_train_jitter_changes_colours_only():
    record = _record()
    arrays = SourceTrain(jitter=(0.5, 0.5, 0.5, 0.2))(record, _rng())
    assert (arrays["images"] != record["image"]).any()
    np.testing.assert_array_equal(arrays["labels"], record["label"])


def test_source_train_needs_labels():
    with pytest.raises(DataError, match="without label"):
        SourceTrain()({"image": _image(), "id": "a"}, _rng())


class Candidates:
    def __call__(self, name):
        mask = np.full((20, 30), 255, np.uint8)
        mask[4:10, 4:9] = {"a": 13, "b": 12}[name]
        return mask


def _dtst(**settings):
    defaults = {
        "full_size": (48, 72),
        "crop_size": (32, 48),
        "images": [{"image": _image(seed=i), "id": "ab"[i]} for i in range(2)],
        "candidates": Candidates(),
        "class_files": {13: [(0, "a")], 12: [(1, "b")], 4: []},
        "mix_classes": (4, 12, 13),
        "companions": COMPANIONS_19,
        "augment": AugmentSettings(cutout_cell=8),
    }
    return DtstTrain(**{**defaults, **settings})


def test_dtst_arrays():
    arrays = _dtst()(_record(index=5), _rng())
    kinds = {name: (a.dtype.name, a.shape) for name, a in arrays.items()}
    assert kinds == {
        "images": ("uint8", (32, 48, 3)),
        "full_images": ("uint8", (48, 72, 3)),
        "rescale_size": ("int32", (2,)),
        "crop_origin": ("int32", (2,)),
        "flip": ("bool", ()),
        "mix_labels": ("uint8", (32, 48)),
        "index": ("int32", ()),
    }
    assert arrays["index"] == 5
    assert set(np.unique(arrays["mix_labels"])) <= {12, 13, 255}


def test_dtst_geometry_leads_from_full_view_to_crop():
    augment = AugmentSettings(
        blur_probability=0.0, jitter=(0.0,) * 4, colour_probability=1.0,
        cutout_probability=0.0, denorm="round",
    )  # fmt: skip
    transform = _dtst(augment=augment, mix_classes=())
    for seed in range(4):
        arrays = transform(_record(index=0), _rng(seed))
        scaled = image_ops.resize(
            arrays["full_images"], tuple(arrays["rescale_size"].tolist()), "bicubic"
        )
        top, left = arrays["crop_origin"]
        view = scaled[top : top + 32, left : left + 48]
        if arrays["flip"]:
            view = view[:, ::-1]
        np.testing.assert_array_equal(arrays["images"], view)


def test_dtst_pastes_only_classes_with_files():
    augment = AugmentSettings(cutout_probability=0.0)
    pasted = set()
    for seed in range(12):
        arrays = _dtst(augment=augment)(_record(index=0), _rng(seed))
        pasted |= set(np.unique(arrays["mix_labels"]))
    assert pasted == {12, 13, 255}
    none = _dtst(class_files={})(_record(index=0), _rng())
    assert (none["mix_labels"] == 255).all()


def test_dtst_mix_probabilities():
    transform = _dtst(mix_probabilities=(0.5, 0.0, 0.5))
    for seed in range(6):
        labels = transform(_record(index=0), _rng(seed))["mix_labels"]
        assert not (labels == 12).any()
    only_empty = _dtst(mix_probabilities=(1.0, 0.0, 0.0))
    assert (only_empty(_record(index=0), _rng())["mix_labels"] == 255).all()
    with pytest.raises(ConfigError, match="2 mix_probabilities for 3"):
        _dtst(mix_probabilities=(0.5, 0.5))


def test_dtst_gives_up_on_masks_without_the_class():
    transform = _dtst(class_files={13: [(1, "b")]})
    assert (transform(_record(index=0), _rng())["mix_labels"] == 255).all()


def test_dtst_counts_pixels_at_full_resolution():
    transform = _dtst(min_class_pixels=120)  # 30 entries at half of each side
    assert (transform(_record(index=0), _rng())["mix_labels"] != 255).any()
    transform = _dtst(min_class_pixels=121)
    assert (transform(_record(index=0), _rng())["mix_labels"] == 255).all()


def test_dtst_refuses_a_crop_too_large():
    with pytest.raises(ConfigError, match="crop_size"):
        _dtst(crop_size=(40, 48))


@pytest.mark.parametrize(
    "transform", [Evaluate(size=(8, 8)), SourceTrain(), _dtst(), Resize(size=(8, 8))]
)
def test_transforms_pickle_and_follow_their_generator(transform):
    copy = pickle.loads(pickle.dumps(transform))
    record = _record(index=1)
    first, second = transform(record, _rng(3)), copy(record, _rng(3))
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


def test_transforms_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Resize().size = (1, 1)
