"""Predictions in Cityscapes' layout, scored by the official evaluator too."""

import json
import math
import shutil
import warnings

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from sfda_jax.data.access import DataAccess
from sfda_jax.data.label_maps import LABEL_MAPS
from sfda_jax.errors import ConfigError, DataError
from sfda_jax.evaluation import evaluator
from sfda_jax.evaluation.confusion import confusion_matrix, scores
from sfda_jax.evaluation.submission import SubmissionWriter, label_ids
from sfda_jax.tasks import CLASS_SPACES, Domain, Task, class_space
from tests.evaluation.tiny_network import examples, tiny

CLASSES = class_space("cityscapes19")
TRAIN_IDS = LABEL_MAPS["cityscapes", "cityscapes19"]


@pytest.fixture(scope="module")
def official():
    """The official pixel-level evaluation of lists of (prediction, ground truth)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what that package's own code says
        name = "cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling"
        module = pytest.importorskip(name)
    args = module.args
    args.evalInstLevelScore, args.JSONOutput, args.quiet = False, False, True

    def evaluate(predictions, truths):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return module.evaluateImgLists(
                [str(p) for p in predictions], [str(p) for p in truths], args
            )

    return evaluate


def _read(path) -> np.ndarray:
    return TRAIN_IDS[np.asarray(Image.open(path))]


def _confusion(truths, predictions) -> np.ndarray:
    """One matrix over all images, of train ids."""
    return sum(
        np.asarray(confusion_matrix(jnp.asarray(truth), jnp.asarray(prediction), 19))
        for truth, prediction in zip(truths, predictions, strict=True)
    ).astype(np.int64)


def _ours(predictions, truths):
    """Our scores of files of label ids."""
    return scores(_confusion(map(_read, truths), map(_read, predictions)), CLASSES)


def _assert_same(found, official_scores, *, mean_tolerance):
    by_class = official_scores["classScores"]
    for name, iou in zip(CLASSES.names, found.iou.tolist(), strict=True):
        theirs = by_class[name]
        if theirs is None or math.isnan(theirs):
            assert math.isnan(iou), name
        else:
            assert iou == theirs, name
    theirs = official_scores["averageScoreClasses"]
    assert found.subsets["mIoU19"] == pytest.approx(theirs, rel=mean_tolerance)


def _write_truth(folder, name, train_ids):
    """A label-id file; ignored pixels take turns among the ignored label ids."""
    ids = np.arange(train_ids.size).reshape(train_ids.shape)
    ignored = np.flatnonzero(TRAIN_IDS[:34] == 255)
    values = np.where(
        train_ids == 255,
        ignored[ids % len(ignored)],
        label_ids(CLASSES)[np.minimum(train_ids, 18)],
    )
    path = folder / f"{name}_gtFine_labelIds.png"
    Image.fromarray(values.astype(np.uint8)).save(path)
    return path


def _frames(truth_classes, predicted_classes):
    """(name, truth, prediction) in train ids of three frames."""
    rng = np.random.default_rng(5)
    for i in range(3):
        truth = rng.choice(np.array([*truth_classes, 255], np.uint8), (48, 96))
        drawn = rng.choice(np.array(predicted_classes, np.uint8), truth.shape)
        right = (rng.random(truth.shape) < 0.6) & (truth != 255)
        yield f"ulm_{i:06d}_000019", truth, np.where(right, truth, drawn)


@pytest.mark.parametrize(
    ("truth_classes", "predicted_classes"),
    [
        (range(19), range(19)),
        ((0, 2, 8, 10, 13), (0, 2, 8, 10, 13, 14)),  # 14 is predicted alone
        ((0, 1, 18), (0, 1)),
        ((7,), (7,)),
    ],
    ids=["all classes", "absent in the truth", "never predicted", "one class"],
)
def test_scores_equal_the_official_ones(
    official, tmp_path, truth_classes, predicted_classes
):
    write = SubmissionWriter(tmp_path / "out", "cityscapes", "val", CLASSES)
    files = []
    for name, truth, prediction in _frames(truth_classes, predicted_classes):
        write(name, prediction)
        files.append((write.path(name), _write_truth(tmp_path, name, truth)))
    predictions, truths = zip(*files, strict=True)
    found = _ours(predictions, truths)
    _assert_same(found, official(predictions, truths), mean_tolerance=1e-15)


@pytest.mark.parametrize("case", ["all_classes", "absent_classes"])
def test_recorded_cases(official, shared_data, case):
    root = shared_data / "formats" / "cityscapes_eval" / case
    truths = sorted(root.glob("gtFine/val/*/*_labelIds.png"))
    predictions = sorted(root.glob("results/*/*_pred.png"))
    assert len(truths) == len(predictions) == 3
    expected = json.loads((root / "expected.json").read_text())
    found = _ours(predictions, truths)
    _assert_same(found, expected, mean_tolerance=1e-12)
    _assert_same(found, official(predictions, truths), mean_tolerance=1e-15)


@pytest.mark.parametrize("space", ["cityscapes19", "synthia16", "crosscity13"])
def test_label_ids_are_those_that_map_back(space):
    ids = label_ids(CLASS_SPACES[space])
    assert ids.max() <= 33
    table = LABEL_MAPS["cityscapes", space]
    np.testing.assert_array_equal(table[ids], np.arange(len(ids)))
    names = [CLASS_SPACES[space].names, CLASSES.names]
    wide = label_ids(CLASSES)
    assert all(ids[i] == wide[names[1].index(n)] for i, n in enumerate(names[0]))


def test_other_classes_have_no_label_ids(tmp_path):
    with pytest.raises(ConfigError, match="camvid11"):
        SubmissionWriter(tmp_path, "camvid", "test", class_space("camvid11"))


def test_paths(tmp_path):
    cityscapes = SubmissionWriter(tmp_path, "cityscapes", "val", CLASSES)
    found = cityscapes.path("lindau_000001_000019").relative_to(tmp_path)
    assert str(found) == "val/lindau/lindau_000001_000019_pred.png"
    other = SubmissionWriter(tmp_path, "acdc", "night_val", CLASSES)
    found = other.path("GOPR0356_frame_000321").relative_to(tmp_path)
    assert str(found) == "night_val/GOPR0356_frame_000321_pred.png"


def test_nowhere_to_write(tmp_path):
    (tmp_path / "out").write_text("in the way")
    write = SubmissionWriter(tmp_path / "out", "cityscapes", "val", CLASSES)
    with pytest.raises(DataError, match="Cannot write"):
        write("ulm_000000_000019", np.zeros((2, 3), np.uint8))


def _whole(record, rng):
    return {"images": record["image"]}


def _evaluated(source, **settings):
    model, variables = tiny(19)
    return evaluator.evaluate(
        model,
        variables,
        source,
        transform=_whole,
        batch_size=2,
        classes=CLASSES,
        **settings,
    )


def test_evaluation_writes_what_it_scores(tmp_path):
    sizes = [(16, 24), (12, 20), (16, 24), (16, 24)]
    source = examples(sizes, 19)
    write = SubmissionWriter(tmp_path, "bdd100k", "val", CLASSES)
    result = _evaluated(source, write=write)
    predictions = [_read(write.path(record["id"])) for record in source]
    assert [p.shape for p in predictions] == sizes
    truths = [record["label"] for record in source]
    np.testing.assert_array_equal(result.confusion, _confusion(truths, predictions))
    np.testing.assert_array_equal(result.confusion, _evaluated(source).confusion)
    assert len(list(tmp_path.rglob("*.png"))) == len(sizes)


def test_unlabelled_examples_are_predicted_and_not_scored(tmp_path):
    labelled = examples([(16, 24)], 19)
    bare = [{"id": "b", "image": labelled[0]["image"][:, ::-1].copy()}]
    write = SubmissionWriter(tmp_path, "bdd100k", "test", CLASSES)
    result = _evaluated(bare, write=write)
    assert result.num_images == 1
    assert not result.confusion.any()
    assert _read(write.path("b")).shape == (16, 24)
    both = _evaluated([*labelled, *bare], write=write)
    np.testing.assert_array_equal(both.confusion, _evaluated(labelled).confusion)


def _access(shared_data, tmp_path, split, variant=""):
    """The Cityscapes sample, two of its training frames made `test` frames."""
    root = tmp_path / "cityscapes"
    if not root.exists():
        shutil.copytree(shared_data / "formats" / "cityscapes", root)
        images = root / "leftImg8bit"
        shutil.copytree(images / "train", images / "test")
    domain = Domain(dataset="cityscapes", train="train", eval=split, variant=variant)
    task = Task(
        name="t", source=None, target=domain, classes=CLASSES, headline="mIoU19"
    )
    folders = {"cityscapes": str(root)}
    return DataAccess(task=task, data_dir=str(tmp_path / "p"), manual_dirs=folders)


def test_splits_with_and_without_labels(official, shared_data, tmp_path):
    for split in ("val", "test"):
        source = _access(shared_data, tmp_path, split).submission("target")
        write = SubmissionWriter(tmp_path / "out", "cityscapes", split, CLASSES)
        result = _evaluated(source, write=write)
        if split == "test":
            assert "label" not in source[0]
            assert not result.confusion.any()
            continue
        truths = sorted(tmp_path.glob("cityscapes/gtFine/val/*/*_labelIds.png"))
        predictions = [write.path(source[i]["id"]) for i in range(len(source))]
        found = official(predictions, truths)
        _assert_same(result.scores, found, mean_tolerance=1e-15)
    written = {p.relative_to(tmp_path) for p in tmp_path.glob("out/**/*.png")}
    assert {str(p) for p in written} == {
        "out/val/frankfurt/frankfurt_000000_000294_pred.png",
        "out/val/lindau/lindau_000000_000019_pred.png",
        "out/test/aachen/aachen_000000_000019_pred.png",
        "out/test/bochum/bochum_000000_000313_pred.png",
    }


def test_another_stored_size_is_refused(shared_data, tmp_path):
    access = _access(shared_data, tmp_path, "val", variant="cityscapes19-24x48")
    with pytest.raises(DataError, match="published size"):
        access.submission("target")
