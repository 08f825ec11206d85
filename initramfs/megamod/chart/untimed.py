"""Stages whose calls have durations but no times → a record that lays them out one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from megamod.chart.calls import CallDraft
from megamod.chart.record import BootRecord, Kind, Span

NOTE = "the source has durations, but no times: the stages are laid out one after the other"


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
