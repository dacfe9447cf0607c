"""The one door: `python -m sfda_jax.main [verb] --config FILE [--config.a.b=c]`."""

import argparse
import logging
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any

from sfda_jax.errors import ConfigError, SfdaError
from sfda_jax.registry import closest

_VERBS = {
    "adapt": "train, adapt and evaluate (the default verb); run again to resume",
    "evaluate": "score a network of a run, or a published checkpoint",
    "predict": "colour a folder of images with a network of a run",
    "convert": "published checkpoint (PyTorch, MXNet, safetensors) → Orbax, and back",
    "export": "a network as StableHLO or ONNX, to run without this package",
    "models": "list the published checkpoints that are known",
    "check": "look through a dataset's published files, or all of a recipe's",
    "bench": "time a recipe's steps and input pipeline on generated data",
}

_NETWORKS = "time published networks instead: all, or names joined by commas"
_VARIANTS = "compare variants of the recipe, names joined by commas"
_SIZE = {"type": int, "nargs": 2, "metavar": ("HEIGHT", "WIDTH")}
_WAIVE = "names that may differ or hold NaN; repeatable"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line; returns the exit status.

    Errors that a user can mend are written as one message with its hint, status 1.
    SIGTERM and Ctrl-C save first; the status is then 128 + the signal.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S"
    )
    # Orbax logs every failing thread through absl; the error itself says it once.
    for chatty in ("absl", "orbax", "grain", "jax"):
        logging.getLogger(chatty).setLevel(logging.CRITICAL)
    try:
        flags, overrides = parse(arguments)
        # Imported here: help and refusals should not wait for JAX.
        from sfda_jax import commands
        from sfda_jax.train.interrupt import Interrupted

        command = shlex.join(["python", "-m", "sfda_jax.main", *arguments])
        try:
            text, status = commands.run(flags, overrides, command)
        except Interrupted as stopped:
            sys.stderr.write(
                f"Stopped by {stopped}; everything is saved. "
                f"Run the same command again to go on:\n  {command}\n"
            )
            return 128 + stopped.signal_number
    except SfdaError as error:
        hint = f"\n  {error.hint}" if error.hint else ""
        sys.stderr.write(f"{type(error).__name__}: {error.message}{hint}\n")
        return 1
    sys.stdout.write(text + "\n")
    return status


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    """Flags, and overrides of the recipe (dotted key → text).

    Raises:
        ConfigError: unknown verbs and flags, with the closest match.
    """
    arguments = list(arguments)
    verb = "adapt"
    if arguments and not arguments[0].startswith("-"):
        verb = arguments.pop(0)
        if verb not in _VERBS:
            raise ConfigError(
                f"Unknown command {verb!r}.{closest(verb, _VERBS)}",
                hint=f"Known: {', '.join(_VERBS)}.",
            )
    parser = _parser(verb)
    flags, rest = parser.parse_known_args(arguments)
    flags.verb = verb
    overrides = {}
    for argument in rest:
        key, equals, text = argument.partition("=")
        if not key.startswith("--config."):
            known = [o for a in parser._actions for o in a.option_strings]
            raise ConfigError(
                f"Unknown argument {argument!r}.{closest(key, known)}",
                hint=f"Known for {verb}: {', '.join(known)}, --config.KEY=VALUE.",
            )
        if not equals:
            raise ConfigError(f"{argument!r} lacks a value.", hint=f"{key}=VALUE")
        overrides[key.removeprefix("--config.")] = text
    return flags, overrides


def _parser(verb: str) -> argparse.ArgumentParser:
    listed = "\n".join(f"  {name:<9} {text}" for name, text in _VERBS.items())
    parser = argparse.ArgumentParser(
        prog=f"python -m sfda_jax.main {verb}",
        description=f"{_VERBS[verb]}\n\ncommands:\n{listed}",
        epilog="--config.KEY=VALUE overrides any setting of the recipe.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    what = "recipe, e.g. configs/demo.py or configs/g2c_iast.py:t4"
    add("--config", metavar="FILE[:VARIANT]", help=what)
    add("--workdir", metavar="DIR", help="run directory; default runs/<recipe name>")
    if verb == "adapt":
        what = "plan, one batch, compile; no run"
        add("--dry_run", "--dry-run", action="store_true", help=what)
    if verb in ("evaluate", "predict", "convert", "export"):
        add("--stage", default="", help="which stage's network; default the last")
        add("--checkpoint", default="", metavar="PATH", help="a file instead of a run")
    if verb == "evaluate":
        add("--split", default="", help="target split; default the task's")
        what = "also write the predictions there, in Cityscapes' layout"
        add("--submission", default="", metavar="DIR", help=what)
    if verb == "predict":
        add("--images", required=True, metavar="DIR", help="folder of images")
    if verb in ("predict", "convert", "export"):
        add("--out", required=True, metavar="PATH", help="what is written")
    if verb == "convert":
        add("--layout", default="", metavar="NAME", help="of the published file")
        add("--entry", default="", metavar="NAME", help="which of a file's networks")
        add("--waive", action="append", default=[], metavar="PATTERN", help=_WAIVE)
        add("--verify", action="store_true", help="compare bits, and with PyTorch")
    if verb == "export":
        add("--format", default="stablehlo", help="stablehlo or onnx")
        add("--size", **_SIZE, help="of the images; default the recipe's")
        add("--batch", type=int, default=0, help="images per call; 0 for any number")
    if verb == "check":
        add("--dataset", default="", metavar="NAME", help="instead of a recipe")
        folder = "folder of its files, as published"
        add("--data_dir", "--manual_dir", default="", metavar="DIR", help=folder)
        add("--variant", default="", help="class space, options, size")
        add("--sample", action="store_true", help="a part: do not compare the counts")
        add("--limit", type=int, default=0, metavar="N", help="examples of each split")
        out = "also write check.json and contact_sheet.png there"
        add("--out", default="", metavar="DIR", help=out)
        add("--json", default="", metavar="FILE", help="every remark and count as JSON")
    if verb == "bench":
        _add_bench_flags(add)
    return parser


def _add_bench_flags(add: Callable[..., Any]) -> None:
    add("--steps", type=int, default=10, help="timed steps per stage")
    add("--stage", default="", help="time the steps of this stage alone")
    add("--variants", default="", metavar="NAMES", help=_VARIANTS)
    add("--input", action="store_true", help="time reading PNG files instead")
    add("--thresholds", action="store_true", help="time CBST's thresholds instead")
    add("--images", type=int, default=200, help="files, or score maps")
    add("--gmm", action="store_true", help="time BiSMAP's mixtures instead")
    what = "features of all 19 classes; see --gmm"
    add("--gmm_rows", type=int, default=2_000_000, metavar="N", help=what)
    add("--networks", default="", metavar="NAMES", help=_NETWORKS)
    add("--size", **_SIZE, help="of the networks' one image, or of a score map")
    add("--json", default="", metavar="FILE", help="also write the rows as JSON")


def run() -> None:
    """Console entry point: `sfda-jax`."""
    sys.exit(main())


if __name__ == "__main__":
    run()
