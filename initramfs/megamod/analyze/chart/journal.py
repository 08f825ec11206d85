"""A journal as ``journalctl -o json`` or ``-o export`` prints it → the kernel's log, and what systemd started when.

The last boot in it counts. The forms: systemd.journal-fields(7) and Journal Export Formats; the message IDs stand in
sd-messages.h and are promised to stay.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from megamod.analyze.chart.record import Mark, Span
from megamod.analyze.chart.userspace import UserSpace, unit_span
from megamod.common.errors import MegamodError

_STARTING = "7d4958e842da4a758f6c1cdc7b36dcc5"
_STARTED = "39f53479d3a045ac8e11786248231fbf"
_FAILED = "be02cf6855d2428ba40df7e9d022f03d"
_FINISHED = "b07a249cd024414a82dd00cd181378ff"
_TARGETS = ("multi-user.target", "graphical.target")
_MOST_QUEUED = 60_000_000
"""Microseconds: journald reads a message that was sent before it ran within a minute, or a clock was set."""


def is_journal(data: bytes) -> bool:
    """Whether *data* begins as a journal does."""
    first = data.lstrip(b"\x1e \t\r\n")[:4096]
    return first.startswith(b"__CURSOR=") or (first.startswith(b"{") and b'"__CURSOR"' in first)


def read_journal(data: bytes, *, name: str, texts: Sequence[str] = ()) -> UserSpace:
    """The journal's last boot; *texts* are looked for in its messages, and the first with each is a mark.

    Raises MegamodError for what is not a whole journal, naming it *name*.
    """
    try:
        entries = list(_export(data) if data.startswith(b"__CURSOR=") else _json(data.decode("utf-8", "replace")))
    except (ValueError, RecursionError):
        hint = "journalctl -b -o json, or -o export"
        raise MegamodError(f"{name}: is a journal, but not a whole one", hint=hint) from None
    if not entries:
        raise MegamodError(f"{name}: the journal has no entries")
    boot = entries[-1].get("_BOOT_ID")
    entries = [entry for entry in entries if entry.get("_BOOT_ID") == boot]
    units, marks = _units(entries)
    for text in texts:
        times = (time for entry in entries if text in _message(entry) and (time := _time(entry)) is not None)
        marks += [Mark(name=text, time=time) for time in sorted(times)[:1]]
    lines = [_kernel_line(entry) for entry in entries if entry.get("_TRANSPORT") == "kernel"]
    return UserSpace(title=name, units=tuple(units), marks=tuple(marks), log="".join(lines))


def _units(entries: Sequence[Mapping[str, Any]]) -> tuple[list[Span], list[Mark]]:
    units: list[Span] = []
    marks: list[Mark] = []
    begun: dict[str, int] = {}
    for entry in entries:
        kind, unit, time = entry.get("MESSAGE_ID"), str(entry.get("UNIT") or ""), _time(entry)
        if time is None or "USER_UNIT" in entry or entry.get("_PID") != "1":
            continue
        if kind == _STARTING:
            begun[unit] = time
        elif kind in (_STARTED, _FAILED) and unit in begun:
            start = begun.pop(unit)
            if time >= start:
                units.append(unit_span(unit, start, time, failed=kind == _FAILED))
        elif kind == _FINISHED:
            marks.append(Mark(name="startup finished", time=time))
        if kind == _STARTED and unit in _TARGETS:
            marks.append(Mark(name=unit, time=time))
    return units, marks


def _time(entry: Mapping[str, Any]) -> int | None:
    """Nanoseconds since the kernel's start: when the message was sent, where it says that, else when it was read."""
    try:
        if entry.get("_TRANSPORT") == "kernel" and "_SOURCE_MONOTONIC_TIMESTAMP" in entry:
            return int(entry["_SOURCE_MONOTONIC_TIMESTAMP"]) * 1000
        read = int(entry["__MONOTONIC_TIMESTAMP"])
        if "_SOURCE_REALTIME_TIMESTAMP" in entry:
            queued = int(entry["__REALTIME_TIMESTAMP"]) - int(entry["_SOURCE_REALTIME_TIMESTAMP"])
            read -= queued if 0 <= queued <= min(_MOST_QUEUED, read) else 0
        return read * 1000
    except (KeyError, TypeError, ValueError):
        return None


def _kernel_line(entry: Mapping[str, Any]) -> str:
    time = _time(entry)
    sender = str(entry.get("SYSLOG_IDENTIFIER", "kernel"))
    # journald takes the name at the front of a line that a program has written into the kernel's log for the sender.
    name = "" if sender == "kernel" else f"{sender}: "
    lines = _message(entry).splitlines() or [""]
    return "" if time is None else "".join(f"[{time / 1e9:12.6f}] {name}{line}\n" for line in lines)


def _message(entry: Mapping[str, Any]) -> str:
    message = entry.get("MESSAGE")
    if isinstance(message, list):  # bytes that are not text
        return bytes(byte & 0xFF for byte in message if isinstance(byte, int)).decode("utf-8", "replace")
    return message if isinstance(message, str) else ""


def _json(text: str) -> Iterator[dict[str, Any]]:
    """Objects one after the other: json, json-pretty, json-seq."""
    decoder = json.JSONDecoder()
    at = 0
    while True:
        while at < len(text) and text[at] in "\x1e \t\r\n":
            at += 1
        if at == len(text):
            return
        value, at = decoder.raw_decode(text, at)
        if isinstance(value, dict):
            yield value


def _export(data: bytes) -> Iterator[dict[str, Any]]:
    entry: dict[str, Any] = {}
    at = 0
    while at < len(data):
        end = data.index(b"\n", at)
        key, equals, value = data[at:end].partition(b"=")
        at = end + 1
        if not key:
            if entry:
                yield entry
            entry = {}
            continue
        if not equals:  # the value's length in eight bytes, and the value
            size = int.from_bytes(data[at : at + 8], "little")
            if len(data) < at + 8 + size + 1:
                raise ValueError("truncated")
            value = data[at + 8 : at + 8 + size]
            at += 8 + size + 1
        entry[key.decode("ascii", "replace")] = value.decode("utf-8", "replace")
    if entry:
        yield entry
