"""A file → the record of the boot that it tells of, whatever kind of file it is.

A serial log, what dmesg prints, a journal, the plot of systemd-analyze, status.json, the JSON of ``megamod boot`` and
of ``megamod chart``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from megamod.analyze.chart.advice import advice_of
from megamod.analyze.chart.journal import is_journal, read_journal
from megamod.analyze.chart.log_to_record import record_of
from megamod.analyze.chart.one_record import one_record
from megamod.analyze.chart.record import BootRecord, Mark
from megamod.analyze.chart.record_json import FORMAT, record_from
from megamod.analyze.chart.status_json import StatusDocument
from megamod.analyze.chart.systemd_plot import is_plot, read_plot, read_plot_json, refuse_others
from megamod.analyze.chart.untimed import record_of_status
from megamod.analyze.chart.userspace import UserSpace, with_marks, with_user_space
from megamod.boot.console import kernel_lines
from megamod.boot.kernel_log import Line, read_lines
from megamod.common.documents import check_version, typed
from megamod.common.errors import MegamodError

MAX_BYTES = 256 << 20

_HINT = "status.json, or what `megamod boot --json` or `megamod chart --json` prints"


def read_record(path: Path) -> BootRecord:
    """The record in the file *path*, ``-`` for standard input. Raises MegamodError for a file of another kind."""
    return one_record([read_source(path)])


def read_source(path: Path, *, texts: Sequence[str] = ()) -> BootRecord | UserSpace:
    """What the file *path* has, ``-`` for standard input: a record, or of user space alone.

    Each of *texts* becomes a mark where a line of the log has it. Raises MegamodError for a file of another kind.
    """
    name = "standard input" if str(path) == "-" else str(path)
    data = _read(path)
    if not data.strip():
        raise MegamodError(f"{name}: is empty")
    if is_journal(data):
        return _of_journal(read_journal(data, name=name, texts=texts))
    text = data.decode("utf-8", "replace").replace("\r", "")
    if is_plot(text):
        return read_plot(text, name=name)
    refuse_others(text, name=name)
    if text.lstrip()[0] not in "{[":
        return record_from_log(text, name=name, texts=texts)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        if text.lstrip()[0] == "[":  # a log, whose lines begin with the time
            return record_from_log(text, name=name, texts=texts)
        raise MegamodError(f"{name}: is neither a log nor complete JSON") from None
    if isinstance(value, list):
        return read_plot_json(value, name=name)
    try:
        return _from_json(value, name)
    except (KeyError, TypeError, ValueError, AttributeError, AssertionError):
        raise MegamodError(f"{name}: is JSON of another kind or version", hint=_HINT) from None


def _of_journal(found: UserSpace) -> BootRecord | UserSpace:
    """A journal that has the loader's lines is a whole boot."""
    if "] megamod: " not in found.log:
        return found
    return with_user_space(record_from_log(found.log, name=found.title), found)


def _marks(text: str, texts: Sequence[str]) -> list[Mark]:
    """The first of the kernel's lines with each of *texts*."""
    lines = [(seconds, line) for seconds, line in kernel_lines(text) if seconds is not None] if texts else []
    found = []
    for wanted in texts:
        times = [seconds for seconds, line in lines if wanted in line]
        found += [Mark(name=wanted, time=round(min(times) * 1e6) * 1000)] if times else []
    return found


def record_from_log(text: str, *, name: str, texts: Sequence[str] = ()) -> BootRecord:
    """The record of a log's text; *name* is the log's in messages and titles, *texts* those of `read_source`."""
    record = record_of(read_lines(text, name=name), title=name)
    return with_marks(replace(record, advice=advice_of(record, text)), _marks(text, texts))


def _read(path: Path) -> bytes:
    try:
        if str(path) == "-":
            data = sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            with path.open("rb") as stream:
                data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise MegamodError(f"{path}: {error.strerror or error}") from None
    if len(data) > MAX_BYTES:
        raise MegamodError(f"{path}: longer than {MAX_BYTES >> 20} MiB, too long for the log of a boot")
    return data


def _from_json(value: dict[str, Any], name: str) -> BootRecord:
    if value.get("format") == FORMAT:
        return record_from(value, source=name)
    if "events" in value:
        lines = [
            Line(time=None if line["seconds"] is None else round(line["seconds"] * 1e6) * 1000, text=str(line["text"]))
            for line in value["lines"]
        ]
        if not lines:
            raise MegamodError(f"{name}: the guest printed nothing that the chart can read")
        return record_of(lines, title=name)
    if "stages" not in value:
        raise MegamodError(f"{name}: is JSON of another kind or version", hint=_HINT)
    check_version(value, StatusDocument, source=name)
    return record_of_status(typed(value, StatusDocument, source=name), title=name)
