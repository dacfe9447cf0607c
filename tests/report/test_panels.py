import numpy as np

from sfda_jax.report.palette import IGNORE_COLOR, colorize, colorize_confidence
from sfda_jax.report.panels import CHANGES, compose_panel, label_changes
from sfda_jax.tasks import CLASS_SPACES, class_space
from tests.report.fake_run import CLASSES, panel_rows


def test_colours_of_classes_and_of_none():
    labels = np.array([[0, 10, 255, 77]], np.uint8)
    expected = [CLASSES.palette[0], CLASSES.palette[10], IGNORE_COLOR, IGNORE_COLOR]
    np.testing.assert_array_equal(colorize(labels, CLASSES)[0], expected)


def test_no_class_looks_like_no_label():
    for space in CLASS_SPACES.values():
        distance = np.abs(space.palette.astype(int) - np.array(IGNORE_COLOR)[None])
        assert distance.max(1).min() > 40


def test_confidence_runs_from_dark_to_light():
    colors = colorize_confidence(np.array([[0.0, 0.5, 1.0, 2.0, np.nan]]))[0]
    brightness = colors.astype(int).sum(1)
    assert brightness[0] < brightness[1] < brightness[2] == brightness[3]
    assert brightness[4] == brightness[0]


def test_panel_holds_every_cell():
    rows = panel_rows()
    panel = compose_panel(rows, CLASSES, cell_width=256)
    assert panel.dtype == np.uint8
    assert panel.shape[1] == 2 * 16 + 3 * 266 - 10
    assert panel.shape[0] > 4 * 128
    # Cells of unscaled width appear pixel for pixel below their titles.
    top = 16 + 28 + 24
    np.testing.assert_array_equal(
        panel[top : top + 128, 16 : 16 + 256], rows[0]["image"]
    )
    np.testing.assert_array_equal(
        panel[top : top + 128, 282 : 282 + 256],
        colorize(rows[0]["ground_truth"], CLASSES),
    )


def test_changes_of_pseudo_labels():
    before = np.array([[1, 1, 255, 255, 1]], np.uint8)
    labels = np.array([[1, 2, 1, 255, 255]], np.uint8)
    expected = [
        CHANGES["same label"],
        CHANGES["other class"],
        CHANGES["new label"],
        IGNORE_COLOR,
        CHANGES["label lost"],
    ]
    np.testing.assert_array_equal(label_changes(labels, before)[0], expected)
    twice = before.repeat(2, 0).repeat(2, 1)
    np.testing.assert_array_equal(
        label_changes(labels, twice), label_changes(labels, before)
    )
    assert len({*CHANGES.values(), IGNORE_COLOR}) == 5


def test_rows_may_lack_columns_and_bring_their_own():
    image = np.zeros((10, 30, 3), np.uint8)
    rows = [
        {"image": image, "night view": np.full((20, 60), 255, np.int32)},
        {"id": "Straße 1", "image": image},
    ]
    assert compose_panel(rows, class_space("camvid11"), cell_width=60).ndim == 3
