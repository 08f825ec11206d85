"""What systemd did after the hand-over, and its place in the record of the same boot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from megamod.analyze.chart.record import BootRecord, Kind, Mark, Span


@dataclass(frozen=True, slots=True, kw_only=True)
class UserSpace:
    """Units while they were starting, and moments, on the kernel's clock. *title* names the file; *log* is the text of
    the kernel's lines in it, empty where it has none."""

    title: str
    units: tuple[Span, ...]
    marks: tuple[Mark, ...]
    log: str = ""


def unit_span(name: str, start: int, end: int, *, failed: bool = False) -> Span:
    """A unit that was starting from *start* to *end*, in nanoseconds."""
    return Span(name=name, kind=Kind.UNIT, start=start, duration=end - start, detail="failed" if failed else "")


def with_user_space(record: BootRecord, found: UserSpace) -> BootRecord:
    """*record* with the units and moments of *found*; its user space goes on until the last of them has ended.

    What an initramfs' own systemd did before the real init is part of the boot too, and stays.
    """
    units = sorted((*record.units, *_new(record.units, found.units)), key=lambda span: (span.start, span.end))
    marks = with_marks(record, found.marks).marks
    end = max([record.end, *(unit.end for unit in units), *(mark.time for mark in marks)])
    return replace(record, units=tuple(units), marks=marks, line=_until(record, end))


def with_marks(record: BootRecord, marks: Sequence[Mark]) -> BootRecord:
    """*record* with *marks* among its own, of each name the first."""
    first: dict[str, Mark] = {}
    for mark in sorted((*record.marks, *marks), key=lambda mark: mark.time):
        first.setdefault(mark.name, mark)
    whole = list(first.values())
    end = max([record.end, *(mark.time for mark in whole)])
    return replace(record, marks=tuple(whole), line=_until(record, end))


def _new(known: Sequence[Span], others: Sequence[Span]) -> list[Span]:
    """Those of *others* that are not the same start of a unit as one of the *known*."""
    ends: dict[str, list[Span]] = {}
    for unit in known:
        ends.setdefault(unit.name, []).append(unit)
    return [
        unit
        for unit in others
        if not any(unit.start < same.end and same.start < unit.end for same in ends.get(unit.name, []))
    ]


def _until(record: BootRecord, end: int) -> tuple[Span, ...]:
    if record.user_space is None or end <= record.end:
        return record.line
    before = record.before_user_space()
    last = record.line[-1]
    detail = last.detail if last.kind == Kind.USERSPACE else ""
    start = before[-1].end
    return (*before, Span(name="user space", kind=Kind.USERSPACE, start=start, duration=end - start, detail=detail))
