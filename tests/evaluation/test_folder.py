import io

import cv2
import numpy as np
import pytest
from PIL import Image

from sfda_jax.data.transforms import Evaluate
from sfda_jax.errors import DataError
from sfda_jax.evaluation.folder import list_images, predict_folder, read_rgb
from sfda_jax.evaluation.predictor import Views
from sfda_jax.tasks import class_space
from tests.evaluation.tiny_network import tiny

CLASSES = class_space("camvid11")
GRADIENT = np.linspace(0, 255, 20 * 30).astype(np.uint8).reshape(20, 30)


def predict(folder, out, *, size=(16, 24), **settings):
    model, variables = tiny(CLASSES.num_classes)
    transform = Evaluate(size=size)
    settings = {"classes": CLASSES, "transform": transform} | settings
    return predict_folder(model, variables, folder, out, **settings)


def shape(path):
    return np.asarray(Image.open(path)).shape


def write_zoo(folder):
    """One image of every awkward kind, all 20 x 30 and all the same gradient."""
    folder.mkdir(parents=True)
    grey = Image.fromarray(GRADIENT)
    rgb = grey.convert("RGB")
    rgb.save(folder / "plain.png")
    grey.save(folder / "grey.PNG")
    rgb.convert("RGBA").save(folder / "with alpha.png")
    grey.convert("LA").save(folder / "grey alpha.png")
    rgb.quantize(256).save(folder / "palette.png")
    rgb.convert("CMYK").save(folder / "press.jpg", quality=100)
    cv2.imwrite(str(folder / "deep.png"), GRADIENT.astype(np.uint16) * 257)
    Image.fromarray(GRADIENT.astype(np.float32) / 255).save(folder / "float.tiff")
    rgb.save(folder / "Straße 東京.webp", lossless=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    rgb.rotate(90, expand=True).save(folder / "turned.jpg", exif=exif, quality=100)
    return folder


def test_every_kind_of_file_becomes_the_same_rgb(tmp_path):
    folder = write_zoo(tmp_path / "in")
    expected = np.repeat(GRADIENT[:, :, None], 3, 2).astype(int)
    for path in list_images(folder):
        image = read_rgb(path)
        assert image.shape == (20, 30, 3) and image.dtype == np.uint8
        assert np.abs(image - expected).mean() < 6, path.name


def test_writes_three_files_at_the_original_size(tmp_path):
    folder = write_zoo(tmp_path / "my images")
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.png").write_bytes(b"")
    (folder / "sub").mkdir()
    Image.new("RGB", (7, 5)).save(folder / "sub" / "tiny.bmp")
    progress = []
    written = predict(
        folder,
        tmp_path / "out",
        on_image=lambda *a: progress.append(a),
        views=Views(flip=True),
    )
    assert written == 11 and progress[-1] == (11, 11)
    stem = tmp_path / "out" / "Straße 東京"
    ids = np.asarray(Image.open(f"{stem}_trainids.png"))
    assert ids.dtype == np.uint8 and ids.shape == (20, 30) and ids.max() < 11
    color = np.asarray(Image.open(f"{stem}_color.png"))
    np.testing.assert_array_equal(color, CLASSES.palette[ids])
    assert np.asarray(Image.open(f"{stem}_overlay.png")).shape == (20, 30, 3)
    assert shape(tmp_path / "out/sub/tiny_trainids.png") == (5, 7)


def test_damaged_images_are_listed_after_the_others_are_written(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    buffer = io.BytesIO()
    Image.fromarray(GRADIENT).save(buffer, "PNG")
    (folder / "b good.png").write_bytes(buffer.getvalue())
    (folder / "a cut.png").write_bytes(buffer.getvalue()[:60])
    (folder / "c text.jpg").write_text("hello")
    (folder / "d empty.jpg").write_bytes(b"")
    with pytest.raises(DataError, match="3 of 4 images") as caught:
        predict(folder, tmp_path / "out")
    for name in ("a cut.png", "c text.jpg", "d empty.jpg"):
        assert name in str(caught.value)
    assert (tmp_path / "out" / "b good_trainids.png").is_file()


def test_equal_stems_do_not_overwrite_each_other(tmp_path):
    for name in ("x.png", "x.bmp"):
        Image.new("RGB", (9, 9)).save(tmp_path / name)
    for _ in range(2):  # earlier predictions inside the folder are not read as images
        assert predict(tmp_path, tmp_path / "out", size=()) == 2
        assert len(list((tmp_path / "out").iterdir())) == 6
    assert (tmp_path / "out" / "x.bmp_trainids.png").is_file()


def test_single_file_and_very_large_image(tmp_path, monkeypatch):
    monkeypatch.setattr("sfda_jax.evaluation.folder._MAX_PIXELS", 100)
    Image.fromarray(GRADIENT).save(tmp_path / "one.png")
    assert predict(tmp_path / "one.png", tmp_path / "out") == 1
    assert shape(tmp_path / "out" / "one_trainids.png") == (20, 30)


def test_empty_missing_and_same_folder(tmp_path):
    with pytest.raises(DataError, match="No image in"):
        predict(tmp_path, tmp_path / "out")
    with pytest.raises(DataError, match="No such folder"):
        predict(tmp_path / "none", tmp_path / "out")
    with pytest.raises(DataError, match="is the image folder"):
        predict(tmp_path, tmp_path)
