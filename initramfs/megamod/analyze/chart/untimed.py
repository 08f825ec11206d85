"""Durations without times → a record that lays the stages out one after the other: /run/megamod/status.json
(loader/README.md), and logs whose lines have no times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from megamod.analyze.chart.calls import CallDraft
from megamod.analyze.chart.record import BootRecord, Kind, Span
from megamod.analyze.chart.status_json import StatusDocument, StatusLoad

NOTE = "there are durations but no times: the stages are shown one after the other"


@dataclass(slots=True, kw_only=True)
class StageTimes:
    """A stage and its calls, in order."""

    name: str
    detail: str = ""
    calls: list[CallDraft] = field(default_factory=list)


def stages_in_a_row(stages: Sequence[StageTimes], *, title: str, kernel: str) -> BootRecord:
    """The record of *stages*: no kernel, no root, no user space, as nothing is known of them."""
    spans = []
    at = 0
    for stage in stages:
        start, parts = at, []
        for call in stage.calls:
            call.start = at
            parts.append(call.span())
            at += call.duration
        if parts:
            name, detail = stage.name, stage.detail
            spans.append(
                Span(name=name, kind=Kind.STAGE, start=start, duration=at - start, detail=detail, parts=tuple(parts))
            )
    return BootRecord(title=title, kernel=kernel, line=tuple(spans), clock=False, notes=(NOTE,))


def record_of_status(status: StatusDocument, *, title: str) -> BootRecord:
    """The record of a status.json."""
    stages = []
    for stage in status.stages:
        if stage.state not in ("done", "failed"):
            continue
        times = StageTimes(name=stage.name, detail=f"triggered by {stage.triggered or 'now'}")
        times.calls += [_call(load) for load in stage.loads if load.nanoseconds]
        stages.append(times)
    return stages_in_a_row(stages, title=title, kernel=str(status.kernel))


def _call(load: StatusLoad) -> CallDraft:
    counts = [sum(member.state == state for member in load.members) for state in ("ok", "failed", "skipped")]
    call = CallDraft(
        name=load.name,
        start=0,
        duration=load.nanoseconds,
        detail="{} ok, {} failed, {} skipped".format(*counts),
    )
    if load.kind == "merged" and load.loaded == "own":
        call.inits = {member.name: member.nanoseconds for member in load.members}
    return call
