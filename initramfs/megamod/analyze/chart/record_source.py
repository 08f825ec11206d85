"""A file → the record of the boot that it tells of, whatever kind of file it is.

A serial log, what dmesg prints, status.json, the JSON of ``megamod boot --json`` and of ``megamod chart --json``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from megamod.analyze.chart.log_to_record import record_of
from megamod.analyze.chart.record import BootRecord
from megamod.analyze.chart.record_json import FORMAT, record_from
from megamod.analyze.chart.status_json import StatusDocument
from megamod.analyze.chart.untimed import record_of_status
from megamod.boot.kernel_log import Line, read_lines
from megamod.common.documents import check_version, typed
from megamod.common.errors import MegamodError

MAX_BYTES = 256 << 20

_HINT = "status.json, or what `megamod boot --json` or `megamod chart --json` prints"


def read_record(path: Path) -> BootRecord:
    """The record in the file *path*, ``-`` for standard input. Raises MegamodError for what is no such file."""
    name = "standard input" if str(path) == "-" else str(path)
    data = _read(path)
    text = data.decode("utf-8", "replace").replace("\r", "")
    if not text.strip():
        raise MegamodError(f"{name}: is empty")
    if text.lstrip()[0] != "{":
        return record_from_log(text, name=name)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise MegamodError(f"{name}: is neither a log nor JSON that is whole") from None
    try:
        return _from_json(value, name)
    except (KeyError, TypeError, ValueError, AttributeError, AssertionError):
        raise MegamodError(f"{name}: is JSON of another kind or version", hint=_HINT) from None


def record_from_log(text: str, *, name: str) -> BootRecord:
    """The record of a log's text; *name* is the log's in messages and titles."""
    return record_of(read_lines(text, name=name), title=name)


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
        raise MegamodError(f"{path}: longer than {MAX_BYTES >> 20} MiB, this is no log of a boot")
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
            raise MegamodError(f"{name}: the guest printed nothing that the chart reads")
        return record_of(lines, title=name)
    if "stages" not in value:
        raise MegamodError(f"{name}: is JSON of another kind or version", hint=_HINT)
    check_version(value, StatusDocument, source=name)
    return record_of_status(typed(value, StatusDocument, source=name), title=name)
