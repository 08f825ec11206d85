"""The record as a trace for Perfetto or Chrome's viewer: the Trace Event Format, JSON, complete events.

Times there are microseconds. Tasks are tracks: the boot itself, and one for each span that ran beside it.
"""

from __future__ import annotations

import json

from megamod.analyze.chart.record import BootRecord, Span

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
    return json.dumps({"traceEvents": events, "displayTimeUnit": "ns"}, ensure_ascii=False, indent=0) + "\n"


def _named(what: str, track: int, name: str) -> dict[str, object]:
    return {"ph": "M", "pid": _PROCESS, "tid": track, "name": what, "args": {"name": name}}


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
