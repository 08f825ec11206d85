"""A log and the status.json of the same boot → one record: times from the one, the members' inits from the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from megamod.analyze.chart.calls import CallDraft
from megamod.analyze.chart.record import BootRecord, Kind, Span
from megamod.common.errors import MegamodError


def merge_records(records: Sequence[BootRecord]) -> BootRecord:
    """One record of those that *records* are of one boot. Raises MegamodError unless exactly one of several has
    times.
    """
    timed = [record for record in records if record.clock]
    if len(records) == 1:
        return records[0]
    if len(timed) != 1:
        titles = ", ".join(record.title for record in records)
        hint = "two boots: --compare; one boot: a log and its status.json"
        raise MegamodError(f"{titles}: not one log with durations for it", hint=hint)
    known: dict[str, dict[str, int]] = {}
    for record in records:
        if record.kernel and timed[0].kernel and record.kernel != timed[0].kernel:
            raise MegamodError(f"{record.title}: is of kernel {record.kernel}, {timed[0].title} of {timed[0].kernel}")
        if not record.clock:
            for call in record.calls():
                inits = {part.name: part.duration for part in call.parts if part.kind == Kind.INIT}
                if inits:
                    known[call.name] = inits
    return replace(
        timed[0],
        line=tuple(_with_inits(span, known) for span in timed[0].line),
        beside=tuple(_with_inits(span, known) for span in timed[0].beside),
        notes=tuple(note for note in timed[0].notes if " in one piece: " not in note),
    )


def _with_inits(span: Span, known: Mapping[str, dict[str, int]]) -> Span:
    if span.kind == Kind.CALL and not span.parts and span.name in known:
        draft = CallDraft(
            name=span.name,
            start=span.start,
            duration=span.duration,
            detail=span.detail,
            inits=known[span.name],
            waited=span.waited,
        )
        return draft.span()
    return replace(span, parts=tuple(_with_inits(part, known) for part in span.parts))
