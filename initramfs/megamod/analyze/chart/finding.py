"""What a boot's chart says in words, and the parts that it says it of: the largest first, the smallest together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from megamod.analyze.chart.record import BootRecord, Kind, Span
from megamod.common.text import counted, human_seconds

LARGEST = 3
"""How many parts are set off."""

LEAST_SHARE = 0.01
"""Parts with a smaller share of the whole have one row together."""

_LOAD = {Kind.COPY, Kind.LINK}
_NOT_FOUND = {Kind.MEASURING, Kind.UNEXPLAINED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Something that took time: *spans* of it, *label* for a row, *subject* for a sentence, *stage* if it is of one."""

    label: str
    subject: str
    kind: Kind
    spans: tuple[Span, ...]
    stage: str = ""

    @property
    def duration(self) -> int:
        """Nanoseconds of all its spans."""
        return sum(span.duration for span in self.spans)


@dataclass(frozen=True, slots=True, kw_only=True)
class Breakdown:
    """*title* names what is broken down, from *start* to *end* in nanoseconds. *parts* are in the order of their start;
    *small* are those below `LEAST_SHARE`, *largest* the `LARGEST` of the parts."""

    title: str
    start: int
    end: int
    parts: tuple[Part, ...]
    small: tuple[Part, ...]
    largest: tuple[Part, ...]

    @property
    def duration(self) -> int:
        """The whole."""
        return self.end - self.start


def breakdown(title: str, spans: Sequence[Span]) -> Breakdown:
    """The parts of *spans*, which follow one another: inits, what the kernel does to load, the rest."""
    start, end = spans[0].start, spans[-1].end
    parts = [part for span in spans for part in _parts(span, "")]
    least = (end - start) * LEAST_SHARE
    shown = sorted((part for part in parts if part.duration >= least), key=lambda part: part.spans[0].start)
    able = [part for part in shown if part.kind not in _NOT_FOUND]
    largest = sorted(able, key=lambda part: -part.duration)[:LARGEST]
    small = tuple(part for part in parts if part.duration < least)
    return Breakdown(title=title, start=start, end=end, parts=tuple(shown), small=small, largest=tuple(largest))


def before_user_space(record: BootRecord) -> Breakdown | None:
    """From the loader's start to user space, or to the end of what is known; None without a loader's time."""
    spans = [span for span in record.before_user_space() if record.loader is None or span.start >= record.loader]
    if record.clock:
        spans = [span for span in spans if span.kind != Kind.KERNEL]
    if not spans:
        return None
    if not record.clock:
        return breakdown(f"stage {spans[0].name}", spans[:1])
    reached = record.user_space is not None
    return breakdown("from the loader's start to user space" if reached else "from the loader's start on", spans)


def headline(record: BootRecord) -> str:
    """The finding: which part took most of what, in one sentence."""
    found = before_user_space(record)
    if found is None or not found.largest:
        return "The boot did not reach megamod's loader." if record.clock else "No stage was loaded."
    largest = found.largest[0]
    stage = next((span for span in record.stages() if span.name == largest.stage), None)
    whole, where = found.duration, "between the loader's start and user space"
    if stage is not None:
        whole, where = stage.duration, f"of stage {stage.name}"
    took, all_of_it = _both(largest.duration, whole)
    if largest.duration >= whole * 0.25:
        return f"{_capital(largest.subject)} takes {took} of {all_of_it} {where}."
    return f"No part stands out in the {all_of_it} {where}: {largest.subject}, the largest, takes {took}."


def context(record: BootRecord) -> list[str]:
    """More sentences: what the kernel takes before the loader, and user space after it."""
    found = []
    kernel = next((span for span in record.line if span.kind == Kind.KERNEL), None)
    if kernel is not None and record.user_space:
        took, whole = _both(kernel.duration, record.user_space)
        found.append(f"The kernel itself takes {took} of the {whole} to user space.")
    if units := longest_units(record):
        took = human_seconds(units[0].duration / 1e9)
        found.append(f"Of {counted(len(record.units), 'unit')}, {units[0].name} takes longest to start, {took}.")
    return found


def longest_units(record: BootRecord) -> list[Span]:
    """Units of systemd, the longest first, without devices: these only wait to be seen."""
    units = [unit for unit in record.units if not unit.name.endswith(".device")]
    return sorted(units, key=lambda unit: -unit.duration)


def _parts(span: Span, stage: str, call: str = "") -> Iterator[Part]:
    if span.kind == Kind.STAGE:
        for part in span.parts or (span,):
            yield from _parts(part, span.name) if part is not span else [_part(span.name, span.name, span, span.name)]
    elif span.kind == Kind.CALL and span.parts:
        own = tuple(part for part in span.parts if part.kind in _LOAD)
        if own:
            yield Part(
                label=f"loading {span.name}",
                subject=f"loading {span.name}",
                kind=Kind.LINK,
                spans=own,
                stage=stage,
            )
        for part in span.parts:
            if part.kind not in _LOAD:
                yield from _parts(part, stage, span.name)
    elif span.kind == Kind.END:
        yield _part("after the inits", f"what follows the inits of {call}", span, stage)
    elif span.kind == Kind.INIT:
        yield _part(f"{span.name}'s init", f"{span.name}'s init", span, stage)
    elif span.kind == Kind.CALL:
        yield _part(f"call of {span.name}", f"the call of {span.name}", span, stage)
    elif span.kind == Kind.ROOT:
        yield _part("root found and mounted", "finding and mounting the root", span, stage)
    else:
        yield _part(span.name, span.name, span, stage)


def _part(label: str, subject: str, span: Span, stage: str) -> Part:
    return Part(label=label, subject=subject, kind=span.kind, spans=(span,), stage=stage)


def _both(part: int, whole: int) -> tuple[str, str]:
    """Both in one unit, which is then said once: ``79`` and ``104 ms``."""
    words, all_of_it = human_seconds(part / 1e9), human_seconds(whole / 1e9)
    number, _, unit = words.partition(" ")
    return (number if all_of_it.endswith(f" {unit}") else words), all_of_it


def _capital(text: str) -> str:
    """The first letter large, unless it begins with a name, which keeps its spelling."""
    first = text.split(" ", 1)[0]
    return text if "_" in first or "'" in first or "." in first else text[:1].upper() + text[1:]
