"""The record as a trace for Perfetto or Chrome's viewer: the Trace Event Format, JSON, complete events.

Times there are microseconds. Tasks are tracks: the boot itself, one for each span that ran beside it, and as many for
units of systemd as started at the same time.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from megamod.analyze.chart.record import BootRecord, Mark, Span

_PROCESS = 1


def trace_json(record: BootRecord) -> str:
    """The document."""
    events: list[dict[str, object]] = [_named("process_name", 0, f"boot of {record.kernel or record.title}")]
    events.append(_named("thread_name", 1, "kernel, loader, user space"))
    for span in record.line:
        events += [_event(each, 1) for each in span.walk()]
    for track, span in enumerate(record.beside, start=2):
        events.append(_named("thread_name", track, f"{span.kind.value} {span.name}"))
        events += [_event(each, track) for each in span.walk()]
    for track, units in enumerate(_rows(record.units), start=2 + len(record.beside)):
        events.append(_named("thread_name", track, "units of systemd"))
        events += [_event(unit, track) for unit in units]
    events += [_instant(mark) for mark in record.marks]
    return json.dumps({"traceEvents": events, "displayTimeUnit": "ns"}, indent=0) + "\n"


def _named(what: str, track: int, name: str) -> dict[str, object]:
    return {"ph": "M", "pid": _PROCESS, "tid": track, "name": what, "args": {"name": name}}


def _rows(units: Sequence[Span]) -> list[list[Span]]:
    """Units that do not overlap, row by row."""
    rows: list[list[Span]] = []
    for unit in units:
        row = next((row for row in rows if row[-1].end <= unit.start), None)
        if row is None:
            rows.append(row := [])
        row.append(unit)
    return rows


def _instant(mark: Mark) -> dict[str, object]:
    return {"ph": "i", "s": "g", "pid": _PROCESS, "tid": 1, "ts": mark.time / 1000, "name": mark.name}


def _event(span: Span, track: int) -> dict[str, object]:
    more: dict[str, object] = {"detail": span.detail} if span.detail else {}
    if span.waited is not None:
        more["waited_us"] = span.waited / 1000
    return {
        "ph": "X",
        "pid": _PROCESS,
        "tid": track,
        "ts": span.start / 1000,
        "dur": span.duration / 1000,
        "name": span.name,
        "cat": span.kind.value,
        "args": more,
    }
