"""Parity with recorded cases: every file under --golden-dir is claimed and passes."""

import fnmatch
import importlib
import pathlib
import pkgutil

import pytest

from tests import golden

# Cases of systems that this version does not hold yet, as patterns; the README's table
# of systems says the same. A case leaves this list when its system arrives.
NOT_YET_BUILT = {
    "atp": (
        *("adamw_steps.npz", "lr_schedule.npz", "ema_sequence_*", "trace_*"),
        *("bank_contrastive.npz", "dist_contrastive_*", "proto_*", "contrast_*"),
        *("ce_neg_loss_*", "entropy_*", "imagenet_feature_distance.npz"),
        *("class_balanced_crop_*", "class_masks_*", "class_mix.npz"),
        *("downscale_label_ratio*", "pseudo_label_weight.npz", "miou_*"),
        "rescale_size_keep_ratio.npz",
    ),
}


def _checkers():
    """(system, file pattern) → checker, from the `<system>_<area>.py` beside this."""
    found = {}
    for module in pkgutil.iter_modules(golden.__path__):
        if module.name.startswith(("test_", "conftest")):
            continue
        loaded = importlib.import_module(f"tests.golden.{module.name}")
        for pattern, check in getattr(loaded, "CHECKERS", {}).items():
            assert (loaded.SYSTEM, pattern) not in found, pattern
            found[loaded.SYSTEM, pattern] = check
    return found


def _claim(checkers, system: str, name: str):
    """The checker of a file: the longest pattern that fits, None without any."""
    patterns = [p for s, p in checkers if s == system and fnmatch.fnmatchcase(name, p)]
    return checkers[system, max(patterns, key=len)] if patterns else None


def _case_files(root: pathlib.Path):
    return sorted(p for p in root.rglob("*") if p.suffix in {".npz", ".json"})


def _system(root: pathlib.Path, path: pathlib.Path) -> str:
    inside = path.relative_to(root).parts
    return inside[0] if len(inside) > 1 else root.name


def _awaited(system: str, name: str) -> bool:
    patterns = NOT_YET_BUILT.get(system, ())
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def pytest_generate_tests(metafunc):
    if "golden_case" not in metafunc.fixturenames:
        return
    root = metafunc.config.getoption("golden_dir")
    checkers = _checkers()
    cases = []
    for path in _case_files(root) if root.is_dir() else ():
        system = _system(root, path)
        check = _claim(checkers, system, path.name)
        if check or not _awaited(system, path.name):
            cases.append(pytest.param((check, path), id=f"{system}/{path.name}"))
    metafunc.parametrize("golden_case", cases)


def test_case(golden_case):
    check, path = golden_case
    assert check is not None, f"no checker claims {path.name}"
    check(path)


def test_golden_dir(request):
    root = request.config.getoption("golden_dir")
    if not root.is_dir():
        pytest.skip(f"--golden-dir {root} does not exist")
    assert _case_files(root), f"{root} holds no case"
