"""The run directory: claimed by one configuration, described for later readers."""

import json
import os
import pathlib
import platform
import subprocess
from collections.abc import Mapping
from typing import Any

import jax

from sfda_jax.errors import ConfigError
from sfda_jax.version import __version__

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def claim(run_dir: pathlib.Path, config: Mapping[str, Any], command: str) -> None:
    """Makes the directory this configuration's own, or confirms that it is.

    Raises:
        ConfigError: the directory cannot be written, or belongs to another
            configuration; then every difference is listed.
    """
    path = run_dir / "config.json"
    text = json.dumps(config, indent=1, sort_keys=True) + "\n"
    if path.exists():
        old = json.loads(path.read_text(encoding="utf-8"))
        lines = diff(old, json.loads(text))
        if lines:
            listed = "\n  ".join(lines)
            raise ConfigError(
                f"{run_dir} holds a run with another configuration:\n  {listed}\n",
                hint="Choose another --workdir, or delete this one to start over.",
            )
        return
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        write_text(run_dir / "command.txt", command + "\n")
        write_text(path, text)
    except OSError as error:
        raise ConfigError(
            f"--workdir={run_dir} cannot be made or written: {error.strerror}.",
            hint="Choose a directory that you may write: --workdir=DIR.",
        ) from error


def diff(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """One line per differing key, `key: old → new`."""
    before, after = _flat(old), _flat(new)
    lines = []
    for key in sorted(before.keys() | after.keys()):
        left, right = before.get(key, "(absent)"), after.get(key, "(absent)")
        if left != right:
            lines.append(f"{key}: {left} → {right}")
    return lines


def versions() -> dict[str, str]:
    """Versions of this package, Python and the libraries that decide numbers."""
    from importlib.metadata import version

    found = {name: version(name) for name in _PACKAGES}
    return {"sfda_jax": __version__, "python": platform.python_version(), **found}


def environment(
    fingerprints: Mapping[str, str], lists: Mapping[str, Any]
) -> dict[str, Any]:
    """What a later reader needs to repeat the run.

    Args:
        fingerprints: dataset → fingerprint of its prepared set.
        lists: domain → which of its training examples are used.
    """
    return {
        "versions": versions(),
        "devices": [f"{d.platform}:{d.device_kind}" for d in jax.devices()],
        "processes": jax.process_count(),
        "cpu_count": os.cpu_count(),
        "git_revision": _git_revision(),
        "datasets": dict(fingerprints),
        "lists": dict(lists),
    }


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes JSON so that readers see the old file or the new one, never half."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes text so that readers see the old file or the new one, never half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping) and value:
        items = [(f".{key}", item) for key, item in value.items()]
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        items = [(f"[{i}]", item) for i, item in enumerate(value)]
    else:
        return {prefix.lstrip("."): value}
    found = {}
    for key, item in items:
        found |= _flat(item, prefix + key)
    return found


def _git_revision() -> str | None:
    """The code's revision, with `+` when the working tree differs from it."""
    folder = pathlib.Path(__file__).parent
    git = ["git", "-C", str(folder)]
    try:
        head = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        )
        status = subprocess.run(
            [*git, "status", "--porcelain"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+" if status.stdout.strip() else "")
