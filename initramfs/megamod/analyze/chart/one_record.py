"""Several files of one boot → one record: times from its log, the members' inits from status.json, units of systemd."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from megamod.analyze.chart.calls import CallDraft
from megamod.analyze.chart.record import BootRecord, Kind, Span
from megamod.analyze.chart.userspace import UserSpace, with_user_space
from megamod.common.errors import MegamodError


def one_record(sources: Sequence[BootRecord | UserSpace]) -> BootRecord:
    """One record of all *sources*, which are of one boot. Raises MegamodError unless exactly one of several has the
    loader's lines with times.
    """
    records = [source for source in sources if isinstance(source, BootRecord)]
    spaces = [source for source in sources if isinstance(source, UserSpace)]
    if not records:
        hint = "add the serial log, dmesg or the whole journal of that boot"
        raise MegamodError(f"{spaces[0].title}: has no line of megamod's loader", hint=hint)
    record = _with_durations(records)
    if spaces and not record.clock:
        hint = "add the serial log, dmesg or the whole journal of that boot"
        raise MegamodError(f"{record.title}: has no times, so {spaces[0].title} has no place in it", hint=hint)
    for space in spaces:
        record = with_user_space(record, space)
    return record


def _with_durations(records: Sequence[BootRecord]) -> BootRecord:
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
