"""One load call → its span: copy, relocation and the rest, each member's init, what comes after them.

A call's own time comes from the loader's line. Where it is split comes from what the log has: the loader's `inits`
lines, the events `copied` and `module_load` of the kernel's tracer, initcall_debug. What it has not stays together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from megamod.analyze.chart.record import Kind, Span, with_wait

WHOLE_START = "copy, relocation and the rest"
START = "relocation and the rest"


@dataclass(slots=True, kw_only=True)
class CallDraft:
    """A call while its lines are read. *inits*: member → nanoseconds, in init order. *copied*, *linked*: when the
    kernel had read the file, and was about to run the first init. *ran*: start and duration of its one init, by
    initcall_debug.
    """

    name: str
    start: int
    duration: int
    detail: str = ""
    copied: int | None = None
    linked: int | None = None
    ran: tuple[int, int] | None = None
    inits: dict[str, int] = field(default_factory=dict)
    waited: int | None = None

    def span(self) -> Span:
        """The call, split as far as it can be."""
        whole = Span(
            name=self.name,
            kind=Kind.CALL,
            start=self.start,
            duration=self.duration,
            detail=self.detail,
            parts=self._parts(),
        )
        return with_wait(whole, self.waited)

    def _parts(self) -> tuple[Span, ...]:
        end = self.start + self.duration
        first = self.linked if self.linked is not None else self.ran[0] if self.ran else None
        if first is not None and not self.start <= first <= end:
            first = None
        taken = sum(self.inits.values())
        if self.inits:
            if first is None:
                # Without the event the inits are known, and what comes after them counts as what comes before.
                first = end - taken
            if taken > end - first or first < self.start:
                return ()
            inits = _in_a_row(self.inits, first)
        elif first is not None:
            # A module on its own has one init; initcall_debug tells where it ends, the event only where it begins.
            over = min(self.ran[1], end - first) if self.ran else end - first
            inits = (Span(name=self.name, kind=Kind.INIT, start=first, duration=over),)
        else:
            return ()
        parts = [*self._before(first), *inits]
        if inits[-1].end < end:
            after = Span(name="after the inits", kind=Kind.END, start=inits[-1].end, duration=end - inits[-1].end)
            parts.append(after)
        return tuple(parts)

    def _before(self, first: int) -> list[Span]:
        copied = self.copied
        if copied is None or not self.start <= copied <= first:
            return [Span(name=WHOLE_START, kind=Kind.LINK, start=self.start, duration=first - self.start)]
        return [
            Span(name="copy", kind=Kind.COPY, start=self.start, duration=copied - self.start),
            Span(name=START, kind=Kind.LINK, start=copied, duration=first - copied),
        ]


def _in_a_row(inits: Mapping[str, int], start: int) -> tuple[Span, ...]:
    spans = []
    for name, duration in inits.items():
        spans.append(Span(name=name, kind=Kind.INIT, start=start, duration=duration))
        start += duration
    return tuple(spans)
