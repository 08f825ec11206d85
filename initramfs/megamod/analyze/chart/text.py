"""The record for a terminal: a table with bars. Plain characters; on a terminal rich adds weight and colour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from megamod.analyze.chart.finding import context, headline, longest_units
from megamod.analyze.chart.record import AT_WORK, KIND_WORDS, BootRecord, Kind, Span, sums
from megamod.analyze.chart.text_rows import Row, rows_of
from megamod.common.text import printable, table

_BAR = 32
_SHOWN_UNITS = 20
# Told apart by their form, so that colour may be missing.
_FILL = {
    Kind.KERNEL: "░",
    Kind.INITCALL: "░",
    Kind.UNPACK: "▒",
    Kind.COPY: "▒",
    Kind.LINK: "▓",
    Kind.INIT: "█",
    Kind.WAIT: "∙",
    Kind.CALL: "█",
    Kind.STAGE: "▓",
    Kind.END: "▒",
    Kind.USERSPACE: "·",
    Kind.UNIT: "█",
    Kind.MEASURING: "?",
    Kind.UNEXPLAINED: "?",
}
_STYLE = {
    Kind.STAGE: "bold",
    Kind.CALL: "bold",
    Kind.KERNEL: "dim",
    Kind.INITCALL: "dim",
    Kind.MEASURING: "dim",
    Kind.USERSPACE: "green",
    Kind.INIT: "cyan",
    Kind.UNEXPLAINED: "red",
}
_HEADER = ["start ms", "ms", "waited", "%"]


def text_chart(record: BootRecord) -> str:
    """The chart as plain text."""
    return "\n".join(printable(line) for line, _kind in _lines(record))


def print_chart(record: BootRecord, stream: TextIO) -> None:
    """Print the chart: with styles if *stream* is a terminal, else as it is."""
    if not stream.isatty():
        stream.write(f"{text_chart(record)}\n")
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(file=stream, highlight=False, soft_wrap=True)
    for line, kind in _lines(record):
        console.print(Text(printable(line), style=_STYLE.get(kind, "") if kind else ""), crop=False)


def milliseconds(nanoseconds: int) -> str:
    """``104.026``: milliseconds to the microsecond."""
    return f"{nanoseconds / 1e6:.3f}"


def _lines(record: BootRecord) -> list[tuple[str, Kind | None]]:
    finding = " ".join([headline(record), *context(record)])
    lines: list[tuple[str, Kind | None]] = [(finding, None), (_title(record), None), ("", None)]
    early = record.before_user_space()
    lines += _section(early, early[-1].end if early else 0, base=0)
    for stage in record.beside:
        lines += [("", None), (f"at the same time, from {milliseconds(stage.start)} ms on:", None)]
        lines += _section([stage], stage.duration, base=stage.start)
    lines += [("", None), ("sums before user space:" if record.user_space is not None else "sums:", None)]
    lines += [(line, None) for line in _sums(early)]
    if record.units:
        lines += [("", None), ("units of systemd, the longest:", None)]
        longest = longest_units(record)[:_SHOWN_UNITS]
        lines += _section(sorted(longest, key=lambda unit: unit.start), record.end, base=0)
    if record.marks:
        lines += [("", None), ("marks:", None)]
        lines += [(f"  {milliseconds(mark.time)} ms  {mark.name}", None) for mark in record.marks]
    beyond = ("what else would shorten it", record.advice)
    for title, texts in (("failures", record.failures), ("notes", record.notes), beyond):
        if texts:
            lines += [("", None), (f"{title}:", None), *((f"  {text}", None) for text in texts)]
    return lines


def _title(record: BootRecord) -> str:
    parts = [record.title, *([f"kernel {record.kernel}"] if record.kernel else [])]
    if record.user_space is not None:
        parts.append(f"user space {milliseconds(record.user_space)} ms after the kernel's start")
        if record.loader is not None:
            parts.append(f"{milliseconds(record.user_space - record.loader)} ms after the loader's")
    elif record.clock:
        parts.append("user space was not reached")
    if record.before is not None:
        parts.append(f"{milliseconds(record.before)} ms before the kernel's clock (firmware, decompression)")
    return ", ".join(parts)


def _section(spans: Sequence[Span], whole: int, *, base: int) -> list[tuple[str, Kind | None]]:
    rows = list(rows_of(spans))
    numbers = [
        [
            "" if row.start is None else milliseconds(row.start),
            milliseconds(row.duration),
            "" if row.waited is None else milliseconds(row.waited),
            f"{100 * row.duration / whole:.1f}" if whole else "",
        ]
        for row in rows
    ]
    left = table(_HEADER, numbers, left=0).splitlines()
    width = max(map(len, left))
    lines: list[tuple[str, Kind | None]] = [(f"{left[0].ljust(width)}  {'':{_BAR}}  what", None)]
    for row, cells in zip(rows, left[1:], strict=True):
        name = f"{'  ' * row.depth}{_name(row)}"
        lines.append((f"{cells.ljust(width)}  {_bar(row, whole, base)}  {name}", row.kind))
    return lines


def _name(row: Row) -> str:
    words = {Kind.STAGE: f"stage {row.name}", Kind.CALL: f"call of {row.name}", Kind.INIT: f"init of {row.name}"}
    name = words.get(row.kind, row.name) if row.start is not None and row.name != AT_WORK else row.name
    return f"{name} ({row.detail})" if row.detail else name


def _bar(row: Row, whole: int, base: int) -> str:
    if row.start is None or not whole:
        return " " * _BAR
    first = min(_BAR - 1, (row.start - base) * _BAR // whole)
    last = max(first + 1, min(_BAR, -(-(row.start - base + row.duration) * _BAR // whole)))
    return (" " * first + _FILL.get(row.kind, "─") * (last - first)).ljust(_BAR)


def _sums(spans: Sequence[Span]) -> list[str]:
    totals = sums(spans)
    whole = sum(span.duration for span in spans)
    rows = [
        [KIND_WORDS[kind], milliseconds(value), f"{100 * value / whole:.1f}" if whole else ""]
        for kind, value in totals.items()
    ]
    return table(["part", "ms", "%"], [*rows, ["all", milliseconds(whole), "100.0"]], left=1).splitlines()
