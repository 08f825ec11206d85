"""The record of a boot: spans on one clock, nested, each filled by its parts. All of `megamod chart` reads this.

Times are integers, nanoseconds on the kernel's clock (printk's), which starts when the kernel takes it over; what
firmware and decompression took before is not in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum


class Kind(StrEnum):
    """What a span is."""

    KERNEL = "kernel"
    INITCALL = "initcall"
    UNPACK = "unpack"
    LOADER = "loader"
    STAGE = "stage"
    CALL = "call"
    COPY = "copy"
    LINK = "link"
    INIT = "init"
    WAIT = "wait"
    END = "end"
    ROOT = "root"
    USERSPACE = "userspace"
    UNIT = "unit"
    MEASURING = "measuring"
    UNEXPLAINED = "unexplained"


KIND_WORDS = {
    Kind.KERNEL: "kernel",
    Kind.INITCALL: "initcalls",
    Kind.UNPACK: "unpacking the image",
    Kind.LOADER: "loader",
    Kind.STAGE: "stages",
    Kind.CALL: "calls, not split",
    Kind.COPY: "calls: copy",
    Kind.LINK: "calls: relocation and the rest",
    Kind.INIT: "inits",
    Kind.WAIT: "waits for devices",
    Kind.END: "calls: after the inits",
    Kind.ROOT: "root",
    Kind.USERSPACE: "user space",
    Kind.UNIT: "units of systemd",
    Kind.MEASURING: "measuring",
    Kind.UNEXPLAINED: "unexplained",
}
"""Each kind for people, in the order in which they are listed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A part of a boot. *parts*, if there are any, follow one another and fill it exactly.

    *waited*: how much of it no processor had work, None if that is not known. *name* of an init is its module's, of
    a call that of the module loaded.
    """

    name: str
    kind: Kind
    start: int
    duration: int
    detail: str = ""
    waited: int | None = None
    parts: tuple[Span, ...] = ()

    @property
    def end(self) -> int:
        """Where it ends."""
        return self.start + self.duration

    def walk(self) -> Iterator[Span]:
        """This span and all below it, in order."""
        yield self
        for part in self.parts:
            yield from part.walk()

    def leaves(self) -> Iterator[Span]:
        """The spans below it, or itself, that have no parts: their durations add up to its own."""
        if not self.parts:
            yield self
        for part in self.parts:
            yield from part.leaves()


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A moment worth a line across the chart: *name*, and *time* in nanoseconds on the kernel's clock."""

    name: str
    time: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BootRecord:
    """A boot. *line* is what happened one after the other and fills the time from 0 to `end`; *beside* are spans that
    ran at the same time, on another task: the unpacking of the image, deferred stages.

    *title* names where it was read; *kernel* the release, or empty; *user_space* when the real init was started,
    None if it was not, or if the source has no times. *clock*: whether it had times; without, the spans are laid out
    one after the other. *loader* is when the loader started. *before*: how long the processor's counter had run when
    the kernel's clock began: firmware, decompression, an earlier kernel. *units* are systemd's, each while it was
    starting; they overlap. *marks* are moments of user space, in order. *advice*: what else would shorten it.
    """

    title: str
    kernel: str
    line: tuple[Span, ...]
    beside: tuple[Span, ...] = ()
    user_space: int | None = None
    loader: int | None = None
    clock: bool = True
    failures: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    before: int | None = None
    units: tuple[Span, ...] = ()
    marks: tuple[Mark, ...] = ()
    advice: tuple[str, ...] = ()

    @property
    def end(self) -> int:
        """The whole, in nanoseconds."""
        return self.line[-1].end if self.line else 0

    def before_user_space(self) -> tuple[Span, ...]:
        """The line without user space."""
        return tuple(span for span in self.line if span.kind != Kind.USERSPACE)

    def stages(self) -> tuple[Span, ...]:
        """All stages, in the order of their start."""
        found = [span for span in (*self.line, *self.beside) if span.kind == Kind.STAGE]
        return tuple(sorted(found, key=lambda span: span.start))

    def calls(self) -> tuple[Span, ...]:
        """All load calls."""
        return tuple(part for stage in self.stages() for part in stage.parts if part.kind == Kind.CALL)

    def unexplained(self) -> int:
        """Nanoseconds of the line that no part accounts for."""
        return sum(leaf.duration for span in self.line for leaf in span.leaves() if leaf.kind == Kind.UNEXPLAINED)


AT_WORK = "at work"
"""The name of what is left of a span without its wait."""

LEAST_WAIT = 100_000
"""Nanoseconds: shorter waits are those of the measurement itself, and of switches between tasks."""


def sums(spans: Iterable[Span]) -> dict[Kind, int]:
    """Nanoseconds by kind of the leaves below *spans*: they add up to the spans' own durations. Waits are always
    apart.
    """
    totals = dict.fromkeys(Kind, 0)
    for span in spans:
        for leaf in span.leaves():
            totals[leaf.kind] += leaf.duration
        hidden = hidden_waits([span])
        totals[Kind.INIT] -= hidden
        totals[Kind.WAIT] += hidden
    return {kind: totals[kind] for kind in KIND_WORDS if totals[kind]}


def hidden_waits(spans: Iterable[Span]) -> int:
    """Nanoseconds of waits in calls of which it is not known which init had to wait, so that no leaf shows them."""
    found = 0
    for call in (each for span in spans for each in span.walk() if each.kind == Kind.CALL and each.waited):
        inits = [part for part in call.parts if part.kind == Kind.INIT]
        if inits and (call.waited or 0) >= LEAST_WAIT and all(leaf.kind != Kind.WAIT for leaf in call.leaves()):
            found += min(call.waited or 0, sum(init.duration for init in inits))
    return found


def with_wait(span: Span, waited: int | None) -> Span:
    """*span* with its wait, nanoseconds, as the first of its parts.

    How long nobody had work is known of a whole call. If just one init is that long, the wait is in it; else it stays
    with the call.
    """
    if waited is None or waited < LEAST_WAIT:
        return replace(span, waited=waited)
    if span.parts:
        able = [part for part in span.parts if part.kind == Kind.INIT and part.duration >= waited]
        parts = (with_wait(part, waited) if len(able) == 1 and part is able[0] else part for part in span.parts)
        return replace(span, waited=waited, parts=tuple(parts))
    waited = min(waited, span.duration)
    wait = Span(name="waiting", kind=Kind.WAIT, start=span.start, duration=waited)
    work = Span(name=AT_WORK, kind=span.kind, start=wait.end, duration=span.duration - waited)
    return replace(span, waited=waited, parts=(wait, work) if work.duration else (wait,))


def filled(span: Span, parts: Iterable[Span]) -> Span:
    """*span* with *parts*, whose gaps become parts too, of the kind `UNEXPLAINED`.

    Parts must lie in it, in order, without overlap.
    """
    given = tuple(parts)
    if not given:
        return span
    whole: list[Span] = []
    at = span.start
    for part in (*given, None):
        start = span.end if part is None else part.start
        assert at <= start <= span.end, f"{span.name}: a part is not in its place"
        if start > at:
            whole.append(Span(name="unexplained", kind=Kind.UNEXPLAINED, start=at, duration=start - at))
        if part is not None:
            whole.append(part)
            at = part.end
    return replace(span, parts=tuple(whole))
