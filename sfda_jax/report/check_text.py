"""A check's report as text, and in full as JSON."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from sfda_jax.data.check import CheckReport
from sfda_jax.data.check_counts import SplitReport
from sfda_jax.data.check_pairs import Remark, counted

_BAR = 24
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def format_check(report: CheckReport, *, most: int = 5, full: str = "") -> str:
    """The report as lines of text: counts, errors, warnings, classes, what to do next.

    Args:
        report: from `check_dataset`.
        most: remarks of each kind that are printed; the others are counted.
        full: the file that holds them all, named beside the number left out.
    """
    place = report.place
    variant = f", variant {place.variant}" if place.variant else ""
    head = f"{place.dataset} ({report.classes.name}{variant}) in {report.root}"
    lines = [head, "=" * len(head)]
    read = f"{counted(report.num_files, 'file')}, {_size(report.num_bytes)}"
    lines += [f"{read}, read in {_time(report.seconds)}", ""]
    lines += _splits(report)
    for remarks, word in ((report.errors, "error"), (report.warnings, "warning")):
        if remarks:
            count = counted(len(remarks), word)
            lines += ["", count, "-" * len(count)]
            lines += _grouped(remarks, report, most=most, full=full)
    lines += _unknown_values(report)
    lines += _classes(report)
    return _plain("\n".join([*lines, "", _next(report)]))


def _plain(text: str) -> str:
    """Text that can be written: file names may hold bytes that are no UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


def _size(num_bytes: int) -> str:
    for unit, power in (("GB", 9), ("MB", 6), ("kB", 3)):
        if num_bytes >= 10**power:
            return f"{num_bytes / 10**power:.1f} {unit}"
    return f"{num_bytes} bytes"


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 90 else f"{seconds / 60:.1f} min"


def table(rows: Sequence[Sequence[str]], align: str) -> list[str]:
    """Rows as lines with aligned columns.

    Args:
        rows: cells; the first row is the head.
        align: `<` or `>` for every column.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            f"{cell:{side}{width}}"
            for cell, side, width in zip(row, align, widths, strict=True)
        ).rstrip()
        for row in rows
    ]


def _splits(report: CheckReport) -> list[str]:
    rows = [("split", "examples", "published", "read", "faulty", "labels", "sizes")]
    for split in report.splits:
        rows.append(
            (
                split.name,
                f"{split.found:,}",
                f"{split.published:,}" if split.published is not None else "?",
                f"{split.read:,}",
                f"{split.faulty:,}",
                "yes" if split.labelled else "none",
                _sizes(split),
            )
        )
    for name, number in report.not_there.items():
        rows.append((name, "–", f"{number:,}", "–", "–", "–", "not there"))
    return table(rows, "<>>>><<")


def _sizes(split: SplitReport) -> str:
    sizes = sorted(split.image_sizes.items(), key=lambda item: -item[1])
    texts = [
        f"{w}×{h}" + (f" ({n:,})" if len(sizes) > 1 else "") for (h, w), n in sizes
    ]
    more = f" and {len(texts) - 3} others" if len(texts) > 3 else ""
    return ", ".join(texts[:3]) + more


def _grouped(
    remarks: Sequence[Remark], report: CheckReport, *, most: int, full: str
) -> Iterator[str]:
    """Remarks by kind, the first few of each, and what mends them."""

    def kind(remark: Remark) -> tuple[str, str]:
        return remark.kind, remark.mend

    kinds = list(dict.fromkeys(map(kind, remarks)))
    for _, group in itertools.groupby(
        sorted(remarks, key=lambda r: kinds.index(kind(r))), key=kind
    ):
        found = list(group)
        number = f" ({len(found):,})" if len(found) > 1 else ""
        yield f"{found[0].kind}{number}"
        for remark in found[:most]:
            yield f"  - {_within(remark.text, report)}"
        if len(found) > most:
            where = f"all in {full}" if full else "--out=DIR lists all"
            yield f"  … and {len(found) - most:,} more; {where}"
        if found[0].mend:
            yield f"  → {found[0].mend}"


def _within(text: str, report: CheckReport) -> str:
    """A remark with paths as they are below the folder that the head names."""
    return text.replace(f"{report.root}/", "")


def _unknown_values(report: CheckReport) -> list[str]:
    rows = [("split", "value", "pixels", "labels", "first")]
    for split in report.splits:
        for unknown in split.unknown_values:
            first = _within(unknown.first, report)
            number = f"{unknown.images:,}"
            row = (f"{unknown.value}", f"{unknown.pixels:,}", number, first)
            rows.append((split.name, *row))
    if len(rows) == 1:
        return []
    return ["", "Label values that are in no map", *table(rows[:41], "<>>><")]


def _classes(report: CheckReport) -> list[str]:
    """Shares of all labelled pixels with bars, of each split, and images per class."""
    splits = [s for s in report.splits if any(s.class_pixels)]
    if not splits:
        return []
    several = splits if len(splits) > 1 else []
    ids = range(report.classes.num_classes)
    whole = [sum(s.class_pixels[i] for s in splits) for i in ids]
    images = [sum(s.class_images[i] for s in splits) for i in ids]
    rows = [("class", "share", "", "pixels", "examples", *(s.name for s in several))]
    for i in sorted(ids, key=lambda i: -whole[i]):
        rows.append(
            (
                report.classes.names[i],
                _percent(whole[i], sum(whole)),
                _bar(whole[i] / max(whole)),
                f"{whole[i]:,}",
                f"{images[i]:,}",
                *(_percent(s.class_pixels[i], sum(s.class_pixels)) for s in several),
            )
        )
    ignored = sum(s.ignored_pixels for s in splits)
    share = _percent(ignored, ignored + sum(whole))
    own = [
        _percent(s.ignored_pixels, s.ignored_pixels + sum(s.class_pixels))
        for s in several
    ]
    rows.append(("ignored", share, "", f"{ignored:,}", "", *own))
    read = sum(s.read - s.faulty for s in splits)
    head = f"Classes: share of the labelled pixels of {counted(read, 'example')}"
    lines = table(rows, "<><>>" + ">" * len(several))
    rule = "-" * max(map(len, lines))
    return ["", head, lines[0], rule, *lines[1:-1], rule, lines[-1]]


def _percent(part: int, whole: int) -> str:
    if not part:
        return "–"
    share = 100 * part / whole
    return f"{share:.2f} %" if share >= 0.005 else "<0.01 %"


def _bar(share: float) -> str:
    """A bar of at most `_BAR` characters, in eighths of one."""
    eighths = max(round(share * _BAR * 8), 1 if share > 0 else 0)
    return _EIGHTHS[8] * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def _next(report: CheckReport) -> str:
    """The last line: what to do now."""
    place = report.place
    prepare = place.command("prepare")
    if report.errors:
        kinds = ", ".join(dict.fromkeys(remark.kind for remark in report.errors))
        return (
            f"Not ready. Mend the errors ({kinds}), then run again: "
            f"{place.command('check')}"
        )
    if report.limit:
        return f"So far no error. Check all: {place.command('check')}"
    return f"Ready. Next: {prepare}"


def check_record(report: CheckReport) -> dict[str, Any]:
    """The whole report in JSON's types, every remark in it."""
    names = report.classes.names
    place = report.place
    return {
        "dataset": place.dataset,
        "variant": place.variant,
        "folder": _plain(str(report.root)),
        "classes": list(names),
        "ok": not report.errors,
        "files": report.num_files,
        "bytes": report.num_bytes,
        "seconds": round(report.seconds, 3),
        "limit": report.limit,
        "splits": {split.name: _split_record(split, names) for split in report.splits},
        "not_there": dict(report.not_there),
        "errors": [_remark_record(remark) for remark in report.errors],
        "warnings": [_remark_record(remark) for remark in report.warnings],
    }


def _split_record(split: SplitReport, names: Sequence[str]) -> dict[str, Any]:
    return {
        "found": split.found,
        "published": split.published,
        "read": split.read,
        "faulty": split.faulty,
        "labelled": split.labelled,
        "class_pixels": dict(zip(names, split.class_pixels, strict=True)),
        "class_examples": dict(zip(names, split.class_images, strict=True)),
        "ignored_pixels": split.ignored_pixels,
        "image_sizes": {f"{w}x{h}": n for (h, w), n in split.image_sizes.items()},
        "label_values": {str(v): n for v, n in split.label_values.items()},
        "unknown_values": [
            {**vars(unknown), "first": _plain(unknown.first)}
            for unknown in split.unknown_values
        ],
    }


def _remark_record(remark: Remark) -> dict[str, Any]:
    return {k: _plain(v) for k, v in vars(remark).items() if k != "error" and v}
