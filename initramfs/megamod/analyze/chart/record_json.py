"""The record as a JSON document, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from megamod.analyze.chart.record import BootRecord, Kind, Span, sums

VERSION = 1
FORMAT = "megamod-chart"


def record_json(record: BootRecord) -> str:
    """The document; README.md has its fields."""
    return json.dumps(record_dict(record), indent=1, ensure_ascii=False) + "\n"


def record_dict(record: BootRecord) -> dict[str, object]:
    """The same before it is text."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "title": record.title,
        "kernel": record.kernel,
        "clock": record.clock,
        "before": record.before,
        "nanoseconds": record.end,
        "loader": record.loader,
        "user_space": record.user_space,
        "unexplained": record.unexplained(),
        "sums": {kind.value: value for kind, value in sums(record.line).items()},
        "line": [_span(span) for span in record.line],
        "beside": [_span(span) for span in record.beside],
        "failures": list(record.failures),
        "notes": list(record.notes),
    }


def _span(span: Span) -> dict[str, object]:
    value: dict[str, object] = {
        "name": span.name,
        "kind": span.kind.value,
        "start": span.start,
        "nanoseconds": span.duration,
    }
    if span.detail:
        value["detail"] = span.detail
    if span.waited is not None:
        value["waited"] = span.waited
    if span.parts:
        value["parts"] = [_span(part) for part in span.parts]
    return value


def record_from(value: Mapping[str, Any], *, title: str) -> BootRecord:
    """The record in a parsed document; KeyError, TypeError or ValueError if it is none of this version."""
    if value["version"] != VERSION:
        raise ValueError("another version")
    loader, user_space = value["loader"], value["user_space"]
    return BootRecord(
        title=title,
        kernel=str(value["kernel"]),
        line=tuple(_read(span) for span in value["line"]),
        beside=tuple(_read(span) for span in value["beside"]),
        user_space=None if user_space is None else int(user_space),
        loader=None if loader is None else int(loader),
        clock=bool(value["clock"]),
        before=None if value["before"] is None else int(value["before"]),
        failures=tuple(map(str, value["failures"])),
        notes=tuple(map(str, value["notes"])),
    )


def _read(value: Mapping[str, Any]) -> Span:
    return Span(
        name=str(value["name"]),
        kind=Kind(value["kind"]),
        start=int(value["start"]),
        duration=int(value["nanoseconds"]),
        detail=str(value.get("detail", "")),
        waited=int(value["waited"]) if "waited" in value else None,
        parts=tuple(_read(part) for part in value.get("parts", ())),
    )
