"""The command `check`: a dataset's published files, or the datasets of a recipe."""

import argparse
import collections
import logging
import pathlib
from collections.abc import Callable

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from sfda_jax import config as configs
from sfda_jax.data.check import CheckReport, check_dataset
from sfda_jax.errors import ConfigError, DataError
from sfda_jax.registry import list_names
from sfda_jax.report.check_text import check_record, format_check
from sfda_jax.report.contact_sheet import contact_sheet
from sfda_jax.tasks import ClassSpace, Domain
from sfda_jax.train import dry_run, loop
from sfda_jax.train.run_dir import write_json
from sfda_jax.types import IGNORE, RandomAccess

_log = logging.getLogger(__name__)

_COMMAND = "python -m sfda_jax.main check"


def run(flags: argparse.Namespace, load: Callable[[], ConfigDict]) -> tuple[str, int]:
    """What `check` prints, and its exit status: 1 after any error in the files.

    Args:
        flags: `main.parse`'s.
        load: the recipe, asked for where no dataset is named.

    Raises:
        SfdaError: unknown names, a folder that is not the dataset's.
    """
    if flags.limit < 0:
        raise ConfigError(f"--limit={flags.limit}.", hint="Expected 0 (all) or more.")
    options = {"sample": flags.sample, "limit": flags.limit}
    text, reports = "", []
    if flags.dataset and flags.config:
        raise ConfigError(
            "--dataset and --config were given, not both can be checked at once.",
            hint=f"{_COMMAND} --dataset=NAME --data_dir=FOLDER, or --config FILE.",
        )
    if flags.dataset:
        if not flags.data_dir:
            raise ConfigError(
                f"Where are the files of {flags.dataset!r}?",
                hint=f"{_COMMAND} --dataset={flags.dataset} --data_dir=FOLDER",
            )
        variant = flags.variant
        reports = [
            check_dataset(flags.dataset, flags.data_dir, variant=variant, **options)
        ]
    elif flags.config or flags.workdir:
        text, reports = check_recipe(load(), **options)
    else:
        raise ConfigError(
            "Which dataset?",
            hint=f"{_COMMAND} --dataset=NAME --data_dir=FOLDER, or --config FILE. "
            f"Datasets: {', '.join(list_names('datasets'))}.",
        )
    texts = [text] if text else []
    texts += [format_check(report, full=_written(flags)) for report in reports]
    _write(reports, flags)
    failed = any(report.errors for report in reports)
    return "\n\n".join(texts), int(failed)


def check_recipe(
    config: ConfigDict, *, sample: bool = False, limit: int = 0
) -> tuple[str, list[CheckReport]]:
    """The recipe's plan with class shares, and reports on its published files.

    Files are looked through where `data.manual_dirs` names a folder that is there;
    prepared sets of other datasets are read for the classes of their labels. After an
    error in the files nothing is prepared, and the plan is empty.

    Args:
        config: from `load_config`.
        sample: published counts are not compared.
        limit: examples looked through of each split of files, 0 for all.

    Raises:
        SfdaError: a setting, dataset or file that cannot be used, with what to do.
    """
    recipe = configs.build(config)
    access = loop.make_access(recipe)
    sides = recipe.domains.values()
    reports: dict[tuple[str, str], CheckReport] = {}
    for side in sides:
        folder = _folder(recipe.data.manual_dirs, side)
        if folder and (side.dataset, side.variant) not in reports:
            reports[side.dataset, side.variant] = check_dataset(
                side.dataset, folder, variant=side.variant, sample=sample, limit=limit
            )
    if any(report.errors for report in reports.values()):
        return "", list(reports.values())
    lines = [dry_run.plan(recipe)]
    for side in sides:
        if side.eval and (side.dataset, side.variant) not in reports:
            labelled = access.with_target(side).eval("target")
            shares = _class_shares(recipe.task.classes, labelled)
            lines.append(f"  {side.dataset} {side.eval}: {shares}")
    return "\n".join(lines), list(reports.values())


def _folder(manual_dirs, side: Domain) -> pathlib.Path | None:
    """The published files of a side, where they are named and there."""
    name = manual_dirs.get(side.dataset, "")
    folder = pathlib.Path(name).expanduser()
    return folder if name and folder.is_dir() else None


def _class_shares(classes: ClassSpace, source: RandomAccess) -> str:
    """Pixel share of each class in a labelled split, absent classes named."""
    counts = collections.Counter()
    for index in range(len(source)):
        values, numbers = np.unique(source[index]["label"], return_counts=True)
        counts.update(dict(zip(values.tolist(), numbers.tolist(), strict=True)))
    total = max(sum(counts.values()), 1)
    shares = [
        f"{name} {100 * counts[i] / total:.2f} %" if counts[i] else f"{name} ABSENT"
        for i, name in enumerate(classes.names)
    ]
    return ", ".join([*shares, f"ignored {100 * counts[IGNORE] / total:.2f} %"])


def _written(flags: argparse.Namespace) -> str:
    """The file that holds every remark; empty where none is asked for."""
    return flags.json or (str(pathlib.Path(flags.out) / "check.json") * bool(flags.out))


def _write(reports: list[CheckReport], flags: argparse.Namespace) -> None:
    """`--json`'s file; `check.json` and contact sheets in `--out`'s folder."""
    records = [check_record(report) for report in reports]
    content = records[0] if len(records) == 1 else records
    out = pathlib.Path(flags.out)
    written = [flags.json] if flags.json else []
    written += [out / "check.json"] if flags.out else []
    try:
        for path in written:
            write_json(pathlib.Path(path), content)
        for report in reports if flags.out else ():
            path = out / _sheet_name(report, alone=len(reports) == 1)
            Image.fromarray(contact_sheet(report)).save(path)
            written.append(path)
    except OSError as error:
        raise DataError(
            f"{error.filename or out} cannot be written ({error.strerror}).",
            hint="Choose another place: --out=DIR, --json=FILE.",
        ) from error
    for path in written:
        _log.info("Written: %s", path)


def _sheet_name(report: CheckReport, *, alone: bool) -> str:
    parts = (report.place.dataset, *report.place.variant.split("/"))
    return f"contact_sheet{'' if alone else '_' + '_'.join(filter(None, parts))}.png"
