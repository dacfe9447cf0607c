import jax
import numpy as np
import pytest
from PIL import Image

from sfda_jax.errors import DataError
from sfda_jax.evaluation import evaluator
from sfda_jax.evaluation.predictor import Views
from sfda_jax.pseudo_labels.store import PseudoLabelStore
from sfda_jax.tasks import class_space
from tests.evaluation.tiny_network import examples, identity_transform, tiny

CLASSES = class_space("camvid11")
MIXED_SIZES = [(16, 24), (16, 24), (12, 20), (16, 24), (16, 24), (12, 20), (16, 24)]


def evaluate(source, **settings):
    model, variables = tiny(CLASSES.num_classes)
    settings = {"batch_size": 2, "transform": identity_transform} | settings
    return evaluator.evaluate(model, variables, source, classes=CLASSES, **settings)


def test_counts_every_labelled_pixel_once_whatever_the_sizes():
    source = examples(MIXED_SIZES, 11)
    seen = []
    result = evaluate(source, on_batch=seen.append)
    labels = np.concatenate([r["label"].ravel() for r in source])
    np.testing.assert_array_equal(
        result.confusion.sum(1), np.bincount(labels, minlength=256)[:11]
    )
    assert result.confusion.dtype == np.int64
    assert result.num_images == len(source) == seen[-1]


def test_batch_size_and_devices_change_nothing():
    source = examples(MIXED_SIZES, 11)
    one = evaluate(source, batch_size=1, devices=jax.devices()[:1])
    four = evaluate(source, batch_size=4, devices=jax.devices()[:4])
    odd = evaluate(source, batch_size=3)
    np.testing.assert_array_equal(one.confusion, four.confusion)
    np.testing.assert_array_equal(one.confusion, odd.confusion)


def resized_transform(record, rng):
    image = Image.fromarray(record["image"]).resize((24, 16), Image.Resampling.BICUBIC)
    return {"images": np.asarray(image)}


def test_prediction_is_scored_at_label_size():
    source = examples([(30, 50), (33, 41)], 11)
    result = evaluate(
        source, transform=resized_transform, views=Views(flip=True, scales=(0.5, 1.0))
    )
    valid = sum(int((r["label"] != 255).sum()) for r in source)
    assert result.confusion.sum() == valid


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ([], "split is empty"),
        ([{"id": "a", "image": np.zeros((8, 8, 3), np.uint8)}], "no ground truth"),
        (
            [
                {
                    "id": "a",
                    "image": np.zeros((8, 8, 3), np.uint8),
                    "label": np.full((8, 8), 18, np.uint8),
                }
            ],
            "holds id 18",
        ),
    ],
)
def test_unusable_splits_are_named(source, expected):
    with pytest.raises(DataError, match=expected):
        evaluate(source)


def test_table_names_network_and_every_subset():
    table = evaluator.format_table(
        evaluate(examples([(8, 8)], 11)), network="teacher", split="dusk_val"
    )
    assert table.startswith("teacher, dusk_val, 1 images")
    for name in (*CLASSES.names, *CLASSES.subsets, "pixel accuracy"):
        assert f"\n{name}" in table
    assert table.count("teacher") == 2 + len(CLASSES.subsets)


POLYPS = class_space("polyp2")


def _score_polyps(source, **settings):
    model, variables = tiny(2)
    settings = {"batch_size": 2, "transform": identity_transform} | settings
    return evaluator.evaluate(model, variables, source, classes=POLYPS, **settings)


def test_means_over_images_are_those_of_each_image_alone():
    source = examples(MIXED_SIZES, 2)
    source[2]["label"][:] = 255  # nothing to score
    found = _score_polyps(source)
    (mean,) = found.scores.image_means.values()
    alone = [_score_polyps([record]).scores for record in source]
    kept = [s for s in alone if not np.isnan(s.iou[1])]
    assert mean.num_images == len(kept) == len(source) - 1
    assert mean.iou == pytest.approx(np.mean([s.iou[1] for s in kept]), rel=1e-12)
    assert mean.dice == pytest.approx(np.mean([s.dice[1] for s in kept]), rel=1e-12)
    other = _score_polyps(source, batch_size=3).scores.image_means
    assert other == found.scores.image_means


def test_processes_count_every_image_once(monkeypatch):
    source = examples(MIXED_SIZES, 2)
    counts = []

    def keep(array):
        counts.append(array)
        return array

    monkeypatch.setattr(evaluator, "sum_over_processes", keep)
    _score_polyps(source)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    for index in range(2):
        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        _score_polyps(source)
    whole, first, second = counts
    matrix = slice(0, 4)
    np.testing.assert_array_equal(whole[matrix], (first + second)[matrix])
    assert whole[-1] == first[-1] + second[-1] == len(source)
    rows = [x[4:-1].reshape(-1, 3) for x in (whole, first + second)]
    np.testing.assert_array_equal(*(np.sort(x, axis=0) for x in rows))


def test_table_shows_dice_where_the_field_does():
    result = _score_polyps(examples(MIXED_SIZES, 2))
    table = evaluator.format_table(result, network="teacher")
    lines = table.splitlines()
    assert lines[2].split() == ["class", "IoU", "%", "Dice", "%", "acc", "%"]
    scores = result.scores
    shown = [scores.iou[1], scores.dice[1], scores.class_accuracy[1]]
    assert lines[5].split() == ["polyp", *(f"{100 * value:.2f}" for value in shown)]
    mean = scores.image_means["polyp"]
    row = f"{100 * mean.iou:.2f} {100 * mean.dice:.2f} teacher, mean of 7 images"
    assert " ".join(lines[-2].split()) == f"polyp {row}"
    assert "Dice" not in evaluator.format_table(
        evaluate(examples([(8, 8)], 11)), network="teacher"
    )


def test_pseudo_label_quality_resizes_the_truth(tmp_path):
    source = examples([(16, 24)], 11)
    store = PseudoLabelStore(tmp_path)
    nearest = Image.fromarray(source[0]["label"]).resize(
        (12, 8), Image.Resampling.NEAREST
    )
    small = np.asarray(nearest).copy()
    small[0] = 255
    store.write("pseudo", source[0]["id"], small)
    quality = evaluator.pseudo_label_quality(store, "pseudo", source, CLASSES)
    assert quality.accuracy == 1
    valid = np.asarray(nearest) != 255
    assert quality.coverage == pytest.approx(valid[1:].sum() / valid.sum())


@pytest.mark.parametrize("average", ["probs", "logits", "view_probs", "class_maps"])
def test_every_average_counts_every_pixel_and_batches_alike(average):
    source = examples([(30, 50), (33, 41), (30, 50)], 11)
    settings = {"transform": resized_transform, "views": Views(average=average)}
    one = evaluate(source, batch_size=1, **settings)
    two = evaluate(source, batch_size=2, **settings)
    assert one.confusion.sum() == sum(int((r["label"] != 255).sum()) for r in source)
    np.testing.assert_array_equal(one.confusion, two.confusion)


def test_one_network_program_for_labels_of_many_sizes():
    evaluate(examples([(30, 50)], 11), transform=resized_transform)
    before = evaluator.network_logits._cache_size()
    for sizes in ([(33, 41)], [(20, 20), (21, 60)]):
        evaluate(examples(sizes, 11), transform=resized_transform)
    assert evaluator.network_logits._cache_size() == before


def test_absent_classes_count_where_they_are_said_to():
    source = examples([(8, 8)], 11)
    source[0]["label"] = np.where(source[0]["label"] == 3, 255, source[0]["label"])
    model, variables = tiny(11)
    bias = variables["params"]["Conv_0"]["bias"].at[3].set(-1e9)  # never predicted
    variables["params"]["Conv_0"]["bias"] = bias
    settings = {"transform": identity_transform, "batch_size": 1, "classes": CLASSES}
    skip, zero = (
        evaluator.evaluate(
            model, variables, source, absent_classes=absent_classes, **settings
        ).scores
        for absent_classes in ("skip", "zero")
    )
    assert np.isnan(skip.iou[3]) and zero.iou[3] == 0
    present = ~np.isnan(skip.iou)
    assert present.sum() < 11
    name, ids = max(CLASSES.subsets.items(), key=lambda item: len(item[1]))
    assert len(ids) == 11
    np.testing.assert_allclose(
        zero.subsets[name], skip.subsets[name] * present.sum() / 11
    )
    np.testing.assert_array_equal(zero.iou[present], skip.iou[present])
