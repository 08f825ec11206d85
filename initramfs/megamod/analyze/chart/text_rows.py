"""The record as rows, for text: what is long gets a row of its own, what is short is put together.

Rows are in order and indented by depth. Within one span the rows of its parts add up to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from megamod.analyze.chart.record import Kind, Span
from megamod.common.text import counted

MAX_ALIKE = 12
"""So many inits, initcalls or calls of one span have rows; the others share one."""

_MANY = {
    Kind.INIT: "other init",
    Kind.INITCALL: "other initcall",
    Kind.CALL: "other call",
    Kind.LOADER: "pause between calls",
    Kind.KERNEL: "pause between initcalls",
    Kind.MEASURING: "measurement",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row; *start* is None where it stands for several spans."""

    depth: int
    kind: Kind
    name: str
    duration: int
    start: int | None
    detail: str = ""
    waited: int | None = None


def rows_of(spans: Sequence[Span], depth: int = 0) -> Iterator[Row]:
    """The rows of *spans* and all below them."""
    shown, others = _chosen(spans) if depth else (list(spans), [])
    for span in shown:
        yield Row(
            depth=depth,
            kind=span.kind,
            name=span.name,
            duration=span.duration,
            start=span.start,
            detail=span.detail,
            waited=span.waited,
        )
        yield from rows_of(span.parts, depth + 1)
    for kind in dict.fromkeys(span.kind for span in others):
        alike = [span.duration for span in others if span.kind == kind]
        yield Row(depth=depth, kind=kind, name=_together(len(alike), _MANY[kind]), duration=sum(alike), start=None)


def _together(count: int, noun: str) -> str:
    first, _, rest = noun.partition(" ")
    return counted(count, noun) if first == "other" or not rest else f"{counted(count, first)} {rest}"


def _chosen(spans: Sequence[Span]) -> tuple[list[Span], list[Span]]:
    """Those that get rows, in order, and those that share."""
    hidden: set[int] = set()
    for kind in _MANY:
        alike = [span for span in spans if span.kind == kind]
        if kind == Kind.KERNEL and not any(span.kind == Kind.INITCALL for span in spans):
            continue  # the kernel's phases
        if kind in (Kind.LOADER, Kind.MEASURING, Kind.KERNEL):
            # These are named alike; one is worth a row, several are not.
            hidden |= {id(span) for span in alike} if len(alike) > 2 else set()
        elif len(alike) > MAX_ALIKE:
            hidden |= {id(span) for span in sorted(alike, key=lambda span: -span.duration)[MAX_ALIKE:]}
    return [span for span in spans if id(span) not in hidden], [span for span in spans if id(span) in hidden]
