"""The record as a JSON document, and back. Schema for other programs: initramfs/docs/schemas/chart.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec

from megamod.analyze.chart.record import BootRecord, Kind, Mark, Span, sums
from megamod.common.documents import Count, check_version, plain, typed

FORMAT: Literal["megamod-chart"] = "megamod-chart"


class ChartSpan(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A part of a boot, as `Span`; times in nanoseconds, *waited* is left out where it is not known."""

    name: str
    kind: Kind
    start: int
    nanoseconds: Count
    detail: str = ""
    waited: Annotated[int, msgspec.Meta(ge=0)] | None = None
    parts: tuple[ChartSpan, ...] = ()


class ChartMark(msgspec.Struct, frozen=True, kw_only=True):
    """A moment, as `Mark`; *time* in nanoseconds."""

    name: str
    time: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class ChartDocument:
    """A boot, as `BootRecord`; times in nanoseconds of the kernel's clock. *sums*: the line's spans by kind,
    *nanoseconds* is the line's end; both follow from the line."""

    format: Literal["megamod-chart"] = FORMAT
    version: Literal[2] = 2
    title: str
    kernel: str
    clock: bool
    before: int | None
    nanoseconds: int
    loader: int | None
    user_space: int | None
    unexplained: int
    sums: Mapping[Kind, int]
    line: tuple[ChartSpan, ...]
    beside: tuple[ChartSpan, ...]
    units: tuple[ChartSpan, ...]
    marks: tuple[ChartMark, ...]
    failures: tuple[str, ...]
    notes: tuple[str, ...]
    advice: tuple[str, ...] = ()


def record_json(record: BootRecord) -> str:
    """The document as text."""
    return json.dumps(record_dict(record), indent=1) + "\n"


def record_dict(record: BootRecord) -> dict[str, object]:
    """The same before it is text."""
    document = ChartDocument(
        title=record.title,
        kernel=record.kernel,
        clock=record.clock,
        before=record.before,
        nanoseconds=record.end,
        loader=record.loader,
        user_space=record.user_space,
        unexplained=record.unexplained(),
        sums=sums(record.line),
        line=tuple(_span(span) for span in record.line),
        beside=tuple(_span(span) for span in record.beside),
        units=tuple(_span(span) for span in record.units),
        marks=tuple(ChartMark(name=mark.name, time=mark.time) for mark in record.marks),
        failures=record.failures,
        notes=record.notes,
        advice=record.advice,
    )
    return dict(plain(document))


def _span(span: Span) -> ChartSpan:
    return ChartSpan(
        name=span.name,
        kind=span.kind,
        start=span.start,
        nanoseconds=span.duration,
        detail=span.detail,
        waited=span.waited,
        parts=tuple(_span(part) for part in span.parts),
    )


def record_from(value: Mapping[str, Any], *, source: str) -> BootRecord:
    """The record in a parsed document; raises MegamodError with *source* and the place of what is wrong."""
    check_version(value, ChartDocument, source=source)
    document = typed(value, ChartDocument, source=source)
    return BootRecord(
        title=source,
        kernel=document.kernel,
        line=tuple(_read(span) for span in document.line),
        beside=tuple(_read(span) for span in document.beside),
        user_space=document.user_space,
        loader=document.loader,
        clock=document.clock,
        before=document.before,
        units=tuple(_read(span) for span in document.units),
        marks=tuple(Mark(name=mark.name, time=mark.time) for mark in document.marks),
        failures=document.failures,
        notes=document.notes,
        advice=document.advice,
    )


def _read(span: ChartSpan) -> Span:
    return Span(
        name=span.name,
        kind=span.kind,
        start=span.start,
        duration=span.nanoseconds,
        detail=span.detail,
        waited=span.waited,
        parts=tuple(_read(part) for part in span.parts),
    )
