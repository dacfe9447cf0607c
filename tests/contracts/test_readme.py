"""What the README and the recipes tell people to type is accepted."""

import pathlib
import re
import shlex

import pytest

import sfda_jax
from sfda_jax import config, main
from tests.smoke.recipes import ROOT

_DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "configs").glob("*.py"))]


def _commands(path: pathlib.Path) -> list[list[str]]:
    """Arguments of every command of ours, continued lines joined."""
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    found = re.findall(r"(?:-m sfda_jax\.main|launch/local\.sh) ([^`#\n]*)", text)
    return [shlex.split(line) for line in found]


COMMANDS = [
    pytest.param(arguments, id=f"{path.name}: {' '.join(arguments)[:60]}")
    for path in _DOCUMENTS
    for arguments in _commands(path)
]


def test_there_are_commands():
    assert len(COMMANDS) > 8


@pytest.mark.parametrize("arguments", COMMANDS)
def test_command_is_accepted(arguments, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    flags, overrides = main.parse(arguments)
    overrides.pop("task.classes", None)  # names a file of the user's
    if flags.config:
        config.build(config.load_config(flags.config, overrides))


def test_paths_in_the_readme_exist():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in re.findall(r"`((?:configs|launch|tests|docs)/[\w./]+)`", text):
        assert (ROOT / path).exists(), path


def test_variants_that_are_named_exist():
    documents = [*_DOCUMENTS, *(ROOT / "docs").glob("*.md"), ROOT / "CHANGELOG.md"]
    text = "".join(path.read_text(encoding="utf-8") for path in documents)
    # Lower case: VARIANT and NAME stand for any.
    named = re.findall(r"\b(\w+\.py):([a-z]\w*)", text)
    assert named
    for file, variant in named:
        assert variant in config.variants(str(ROOT / "configs" / file)), file


def test_public_names():
    assert sfda_jax.__all__ == [
        "__version__",
        "adapt",
        "evaluate",
        "predict",
        "load_config",
        "load_model",
        "list_models",
    ]
    assert all(getattr(sfda_jax, name) for name in sfda_jax.__all__)
