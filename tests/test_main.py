"""The command line: what a mistake prints, and what source-free means."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from sfda_jax import config, main
from sfda_jax.errors import DataError
from sfda_jax.models import deeplab_v2
from sfda_jax.train import loop
from sfda_jax.weights.checkpoint_file import read_checkpoint
from sfda_jax.weights.convert import save_published
from sfda_jax.weights.torch_file import write_torch_file
from tests.smoke.recipes import DEMO, ROOT, as_flags, small
from tests.weights.networks import SIZES, random_state


def _fails(capsys, *arguments: str) -> str:
    assert main.main(list(arguments)) == 1
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["addapt", "--config", DEMO], "Did you mean 'adapt'"),
        (["--confg", DEMO], "--config"),
        (["--config", "configs/dmeo.py"], "no such recipe"),
        (["--config", DEMO, "--config.sede=1"], "Did you mean 'seed'"),
        (["--config", DEMO, "--config.seed=one"], "expected int"),
        (["--config", DEMO, "--config.seed"], "lacks a value"),
        ([], "--config configs/demo.py"),
        (["evaluate", "--workdir", "no/such/run"], "no/such/run"),
        (["--config", DEMO, "--workdir", "/proc/1/run"], "cannot be made"),
    ],
)
def test_mistakes(capsys, arguments, says):
    assert says in _fails(capsys, *arguments)


def test_missing_dataset_names_folder_and_command(capsys, tmp_path):
    recipe = DEMO.replace("demo.py", "camvid_day2dusk.py")
    said = _fails(
        capsys,
        *("check", "--config", recipe, f"--config.data.data_dir={tmp_path}"),
        f"--config.data.manual_dirs.camvid={tmp_path / 'nothing here'}",
    )
    assert "nothing here" in said
    assert "python -m data_prep camvid" in said


def test_another_configuration_in_the_same_directory(capsys, tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps(config.load_config(DEMO).to_dict())
    )
    said = _fails(
        capsys, "--config", DEMO, "--workdir", str(tmp_path), "--config.seed=7"
    )
    assert "seed: 0 → 7" in said


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A tiny finished run."""
    folder = tmp_path_factory.mktemp("run")
    flags = ["--config", DEMO, "--workdir", str(folder), *as_flags(small(DEMO))]
    assert main.main(flags) == 0
    return folder


@pytest.mark.slow
def test_evaluate_repeats_the_runs_number(finished, capsys):
    assert main.main(["evaluate", "--workdir", str(finished)]) == 0
    said = capsys.readouterr().out
    summary = json.loads((finished / "summary.json").read_text())
    shown = re.search(r"mIoU19\s+([\d.]+)", said).group(1)
    assert shown == f"{summary['target_mIoU']['adapted']:.2f}"


@pytest.mark.slow
def test_submission(finished, tmp_path, capsys):
    flags = ["--workdir", str(finished), "--submission", str(tmp_path)]
    assert main.main(["evaluate", *flags]) == 0
    said = capsys.readouterr().out
    assert "64 predictions (label ids)" in said
    assert "mIoU19" in said
    ids = [np.asarray(Image.open(path)) for path in tmp_path.glob("real_test/*.png")]
    assert len(ids) == 64
    assert all(array.max() <= 33 for array in ids)


@pytest.mark.slow
def test_predict_any_image(finished, tmp_path):
    images = tmp_path / "my images"
    images.mkdir()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (31, 57, 4), np.uint8)).save(images / "é.png")
    Image.fromarray(rng.integers(0, 255, (40, 40), np.uint8)).save(images / "grey.jpg")
    out = tmp_path / "out"
    flags = ["--workdir", str(finished), "--images", str(images), "--out", str(out)]
    assert main.main(["predict", *flags]) == 0
    assert np.asarray(Image.open(out / "é_trainids.png")).shape == (31, 57)
    assert (out / "grey_overlay.png").exists()


@pytest.mark.slow
def test_checkpoint_of_another_network(finished, capsys):
    said = _fails(
        capsys, "evaluate", "--workdir", str(finished), "--config.model.width=16"
    )
    assert "found (16,), expected (8,)" in said


@pytest.mark.slow
def test_stops_at_a_loss_that_is_not_finite(capsys, tmp_path):
    flags = small(DEMO, steps=6) | {
        "stages.source.optimizer.learning_rate": "1e30",
        "stages.source.optimizer.name": "sgd",
    }
    said = _fails(
        capsys, "--config", DEMO, "--workdir", str(tmp_path), *as_flags(flags)
    )
    assert re.search(r"Loss is (nan|inf) at stage 'source', round 1/1, step \d", said)
    assert "source: [" in said  # the batch's dataset positions
    assert "Last good checkpoint" in said


@pytest.mark.slow
def test_bench_and_dry_run(capsys, tmp_path):
    flags = ["--config", DEMO, *as_flags(small(DEMO))]
    path = tmp_path / "rows.json"
    assert main.main(["bench", *flags, "--steps", "2", "--json", str(path)]) == 0
    rows = json.loads(path.read_text())
    assert [row["stage"] for row in rows] == ["source", "dtst"]
    assert all(row["step_median"] > 0 for row in rows)
    assert all(row["input_images_per_second"] > 0 for row in rows)
    assert main.main([*flags, "--dry_run"]) == 0
    assert "compile_seconds" in capsys.readouterr().out


@pytest.mark.slow
def test_bench_compares_variants(capsys, tmp_path):
    recipe = str(ROOT / "configs" / "polyps.py")
    # What both variants know; of the stages, the one that both have.
    overrides = {
        key: text
        for key, text in small(f"{recipe}:stable_st").items()
        if not key.startswith("stages.source.") and not key.endswith("stable_share")
    }
    path = tmp_path / "rows.json"
    command = ["bench", "--config", recipe, "--variants", "dtst,stable_st"]
    command += ["--stage", "adapt", "--steps", "1", "--json", str(path)]
    assert main.main([*command, *as_flags(overrides)]) == 0
    rows = json.loads(path.read_text())
    assert [(row["variant"], row["stage"]) for row in rows] == [
        ("dtst", "adapt"),
        ("stable_st", "adapt"),
    ]
    first, second = (row["step_median"] for row in rows)
    assert rows[0]["relative"] == 1
    assert rows[1]["relative"] == pytest.approx(second / first, abs=1e-3)
    capsys.readouterr()
    command[command.index("adapt")] = "adatp"
    said = _fails(capsys, *command, *as_flags(overrides))
    assert "Did you mean 'adapt'" in said


def test_variants_of_no_recipe(capsys):
    assert "of which recipe" in _fails(capsys, "bench", "--variants", "dtst,snd")


def test_source_free_closes_the_source():
    loaded = config.load_config(DEMO, small(DEMO))
    access = loop.make_access(config.build(loaded))
    assert "label" in access.train("source")[0]
    closed = access.without_source()
    with pytest.raises(DataError, match="source-free"):
        closed.train("source")
    assert "label" not in closed.train("target")[0]
    assert "label" in closed.eval("target")[0]


def _network_file(path, **settings):
    model = deeplab_v2.Model(num_classes=3, **SIZES)
    save_published(path, random_state(model), model, **settings)
    return path


def test_models_lists_the_published_files(capsys):
    assert main.main(["models"]) == 0
    said = capsys.readouterr().out
    assert "G2C_model_iter020000.pth" in said and "5d3b4d8f" in said


def test_convert_there_and_back(capsys, tmp_path):
    file = _network_file(tmp_path / "m.pth", layout="deeplab_v2_iast")
    folder, back = tmp_path / "m", tmp_path / "back.pth"
    flags = ["convert", "--checkpoint", str(file), "--out", str(folder), "--verify"]
    assert main.main(flags) == 0
    said = capsys.readouterr().out
    assert re.search(r"layout deeplab_v2_iast: (\d+) matched, 0 missing", said)
    assert "converted back:" in said and "read again:" in said
    flags = ["--checkpoint", str(folder), "--out", str(back)]
    assert main.main(["convert", *flags, "--layout", "deeplab_v2_iast"]) == 0
    assert back.read_bytes() == file.read_bytes()


def test_convert_refuses_what_does_not_fit(capsys, tmp_path):
    file = _network_file(tmp_path / "m.pth")
    sizes = [f"--config.model.{name}={size}" for name, size in SIZES.items()]
    recipe = ["--config", DEMO.replace("demo.py", "s2c.py"), *sizes]
    flags = ["convert", "--checkpoint", str(file), "--out", str(tmp_path / "out")]
    assert "it has 3 classes, the task 16" in _fails(capsys, *flags, *recipe)
    assert "missing" in _fails(capsys, *flags, "--layout", "deeplab_v2_crst")
    assert "no checkpoints are written as .npz" in _fails(
        capsys, *flags[:-1], str(tmp_path / "m.npz")
    )
    assert "Which recipe?" in _fails(capsys, "convert", "--out", str(tmp_path / "x"))
    assert not (tmp_path / "out").exists()


def test_waived_names_are_reported(capsys, tmp_path):
    file = tmp_path / "m.pth"
    tree = read_checkpoint(_network_file(file))
    tree["classifier"]["conv2d_list.0.bias"][0] = np.nan
    write_torch_file(file, tree)
    flags = ["convert", "--checkpoint", str(file), "--out", str(tmp_path / "out")]
    assert "conv2d_list.0.bias holds NaN" in _fails(capsys, *flags)
    waive = ["--waive", "*conv2d_list.0.bias", "--waive", "*branch0/bias"]
    assert main.main([*flags, *waive]) == 0
    assert "waived (1): classifier/conv2d_list.0.bias" in capsys.readouterr().out


def test_export_needs_a_size(capsys, tmp_path):
    file, out = _network_file(tmp_path / "m.pth"), tmp_path / "out"
    flags = ["export", "--checkpoint", str(file), "--out", str(out)]
    assert "--size HEIGHT WIDTH" in _fails(capsys, *flags)
    assert main.main([*flags, "--size", "24", "40", "--batch", "1"]) == 0
    assert "0 of 960 class ids differ" in capsys.readouterr().out
    described = json.loads((out / "model.json").read_text())
    assert described["outputs"]["logits"][1] == [1, 24, 40, 3]


@pytest.mark.slow
def test_a_run_s_network_leaves_in_every_form(finished, capsys, tmp_path):
    run = ["--workdir", str(finished)]
    file = tmp_path / "adapted.safetensors"
    said = _fails(capsys, "convert", *run, "--out", str(file))
    assert "--layout ours" in said
    flags = ["--out", str(file), "--layout", "ours", "--verify"]
    assert main.main(["convert", *run, *flags]) == 0
    assert main.main(["evaluate", *run, "--checkpoint", str(file)]) == 0
    summary = json.loads((finished / "summary.json").read_text())
    score = f"{summary['target_mIoU']['adapted']:.2f}"
    assert score in capsys.readouterr().out
    assert main.main(["export", *run, "--out", str(tmp_path / "export")]) == 0
    assert "road" in json.loads((tmp_path / "export/model.json").read_text())["classes"]
