"""Who may import whom, and what importing the package may cost."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "sfda_jax"

LAYERS = {
    "errors": 0,
    "registry": 0,
    "tasks": 0,
    "types": 0,
    "version": 0,
    "ops": 1,
    "losses": 1,
    "models": 1,
    "data": 1,
    "student_scores": 2,
    "teachers": 2,
    "pseudo_labels": 2,
    "methods": 3,
    "weights": 3,
    "evaluation": 3,
    "report": 3,
    "train": 4,
    "overrides": 5,
    "settings": 5,
    "config": 5,
    "checking": 5,
    "commands": 5,
    "main": 5,
}
# Beyond the layers: what may be imported inside one layer.
SAME_LAYER = {
    "losses": {"ops"},
    "models": {"ops"},
    "settings": {"overrides"},
    "config": {"overrides", "settings"},
    "checking": {"config"},
    "commands": {"checking", "config"},
    "main": {"commands"},
    "report": {"evaluation"},
    "registry": {"errors"},
    "tasks": {"errors", "registry"},
}
METHOD_BASES = {"base", "bismap_base", "online_teacher"}
OUTSIDE = {"data_prep", "configs", "launch", "tests"}
MODULES = sorted(PACKAGE.rglob("*.py"))


def _unit(path: pathlib.Path) -> str:
    """The package or top-level module a file belongs to."""
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else path.stem


def _imports(path: pathlib.Path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _fault(path: pathlib.Path, name: str) -> str | None:
    """Why this import is not allowed, or None."""
    parts = name.split(".")
    if parts[0] == "tensorflow":
        return "TensorFlow is never imported"
    if parts[0] == "torch" and _unit(path) != "weights":
        return "torch is imported in weights/ only"
    if parts[0] in OUTSIDE:
        return f"nothing imports {parts[0]}"
    if parts[0] != "sfda_jax" or len(parts) < 2 or _unit(path) == "__init__":
        return None
    unit, target = _unit(path), parts[1]
    if unit == target or target not in LAYERS:
        return None
    if unit == "train" and target == "methods" and parts[2] != "base":
        return "train knows methods.base only"
    if LAYERS[target] < LAYERS[unit] or target in SAME_LAYER.get(unit, ()):
        return None
    return f"layer {LAYERS[unit]} may not import {target} (layer {LAYERS[target]})"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports(path):
    faults = {name: _fault(path, name) for name in _imports(path)}
    assert not {name: why for name, why in faults.items() if why}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_every_unit_has_a_layer(path):
    assert _unit(path) in LAYERS or path.name == "__init__.py"


@pytest.mark.parametrize(
    "path",
    [p for p in MODULES if _unit(p) == "data"],
    ids=lambda p: p.name,
)
def test_data_computes_nothing_with_jax(path):
    assert not [name for name in _imports(path) if name.split(".")[0] == "jax"]


def test_no_method_touches_the_filesystem():
    for path in (PACKAGE / "methods").glob("*.py"):
        names = {name.split(".")[0] for name in _imports(path)}
        assert not names & {"os", "pathlib", "io", "shutil", "orbax", "matplotlib"}


def test_no_method_imports_another():
    for path in (PACKAGE / "methods").glob("*.py"):
        for name in _imports(path):
            if name.startswith("sfda_jax.methods."):
                assert name.split(".")[2] in METHOD_BASES, (path.name, name)


def test_import_is_quick_and_starts_no_backend():
    code = (
        "import time; t = time.perf_counter(); import sfda_jax; "
        "s = time.perf_counter() - t; import sys; "
        "assert 'jax' not in sys.modules or not "
        "__import__('jax')._src.xla_bridge._backends; print(s)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 1.0


def test_files_and_functions_stay_small():
    for path in MODULES:
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") <= 400, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                lines = node.end_lineno - node.lineno + 1
                doc = ast.get_docstring(node)
                lines -= doc.count("\n") + 1 if doc else 0
                assert lines <= 60, (path, node.name, lines)
