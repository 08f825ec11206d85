"""Journals and plots of systemd-analyze in the chart: units at their times, one picture from the kernel's start on."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from megamod.analyze.chart.one_record import one_record
from megamod.analyze.chart.perfetto import trace_json
from megamod.analyze.chart.record import BootRecord, Mark
from megamod.analyze.chart.record_json import record_from, record_json
from megamod.analyze.chart.record_source import read_record, read_source
from megamod.analyze.chart.svg import svg_chart
from megamod.analyze.chart.text import text_chart
from megamod.common.errors import MegamodError
from tests.unit.boot_logs import LOG

_DAY = 1_796_061_433_350_882
"""Microseconds: what CLOCK_REALTIME was when the kernel started."""
_STARTING, _STARTED, _FAILED = (
    "7d4958e842da4a758f6c1cdc7b36dcc5",
    "39f53479d3a045ac8e11786248231fbf",
    "be02cf6855d2428ba40df7e9d022f03d",
)


def entry(read: int, message: str, *, boot: str = "b2", **fields: str) -> dict[str, object]:
    """An entry that journald has read *read* microseconds after the kernel's start."""
    return {
        "__CURSOR": f"s=1;i={read};b={boot}",
        "__REALTIME_TIMESTAMP": str(_DAY + read),
        "__MONOTONIC_TIMESTAMP": str(read),
        "_BOOT_ID": boot,
        "_TRANSPORT": "journal",
        "MESSAGE": message,
        **fields,
    }


def of_init(read: int, kind: str, unit: str, *, sent: int | None = None) -> dict[str, object]:
    """A message of process 1 about a unit."""
    source = {"_SOURCE_REALTIME_TIMESTAMP": str(_DAY + (read if sent is None else sent))}
    return entry(read, f"{unit} …", MESSAGE_ID=kind, UNIT=unit, _PID="1", **source)


def of_kernel(line: str) -> dict[str, object]:
    """A line of the kernel's log, as journald has it: a program's name at the front is the sender's."""
    match = re.fullmatch(r"\[ *(\d+)\.(\d+)\] (?:(megamod): )?(.*)", line)
    assert match is not None
    time, sender = str(int(match[1]) * 1_000_000 + int(match[2])), match[3] or "kernel"
    fields = {"_TRANSPORT": "kernel", "SYSLOG_IDENTIFIER": sender, "_SOURCE_MONOTONIC_TIMESTAMP": time}
    return entry(3_000_000, match[4], **fields)


JOURNAL = [
    entry(900_000, "another boot", boot="b1", _TRANSPORT="kernel", _SOURCE_MONOTONIC_TIMESTAMP="900000"),
    *map(of_kernel, LOG.splitlines()),
    # Sent before journald ran, read later.
    of_init(2_900_000, _STARTING, "dbus.service", sent=1_900_000),
    of_init(2_950_000, _STARTING, "login.service", sent=2_000_000),
    of_init(3_100_000, _STARTED, "dbus.service"),
    of_init(3_200_000, _FAILED, "login.service"),
    of_init(3_250_000, _STARTED, "multi-user.target"),
    entry(3_300_000, "of a session", MESSAGE_ID=_STARTED, USER_UNIT="x.service", _PID="1"),
    entry(3_400_000, "camera: first frame"),
    entry(3_500_000, "Startup finished", MESSAGE_ID="b07a249cd024414a82dd00cd181378ff", _PID="1"),
]


def as_json(entries: list[dict[str, object]]) -> bytes:
    return "".join(json.dumps(each) + "\n" for each in entries).encode()


def as_export(entries: list[dict[str, object]]) -> bytes:
    """The form of systemd's JOURNAL_EXPORT_FORMATS, messages as binary fields."""
    out = b""
    for each in entries:
        for key, value in each.items():
            data = str(value).encode()
            size = len(data).to_bytes(8, "little")
            out += key.encode() + b"\n" + size + data + b"\n" if key == "MESSAGE" else f"{key}={value}\n".encode()
        out += b"\n"
    return out


def write(folder: Path, data: bytes | str, name: str = "j") -> Path:
    path = folder / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def units(record: BootRecord) -> list[tuple[str, int, int, str]]:
    return [(unit.name, unit.start // 1000, unit.end // 1000, unit.detail) for unit in record.units]


@pytest.mark.parametrize("form", [as_json, as_export])
def test_a_journal_is_a_whole_boot(tmp_path: Path, form: Callable[[list[dict[str, object]]], bytes]) -> None:
    record = read_source(write(tmp_path, form(JOURNAL)), texts=["first frame", "absent"])
    assert isinstance(record, BootRecord)
    assert record.loader == 1_701_000_000
    assert units(record) == [
        ("dbus.service", 1_900_000, 3_100_000, ""),
        ("login.service", 2_000_000, 3_200_000, "failed"),
    ]
    assert record.marks == (
        Mark(name="multi-user.target", time=3_250_000_000),
        Mark(name="first frame", time=3_400_000_000),
        Mark(name="startup finished", time=3_500_000_000),
    )
    assert record.end == 3_500_000_000
    assert sum(span.duration for span in record.line) == record.end


def test_the_journal_gives_the_same_boot_as_the_serial_log(tmp_path: Path) -> None:
    kernel = [each for each in JOURNAL if each["_TRANSPORT"] == "kernel"]
    from_journal = read_record(write(tmp_path, as_json(kernel)))
    from_log = read_record(write(tmp_path, LOG))
    assert (from_journal.line, from_journal.beside) == (from_log.line, from_log.beside)


def test_a_journal_without_the_loader_joins_a_serial_log(tmp_path: Path) -> None:
    later = [each for each in JOURNAL if each["_TRANSPORT"] != "kernel"]
    sources = [read_source(write(tmp_path, LOG, "log")), read_source(write(tmp_path, as_json(later)))]
    assert units(one_record(sources)) == units(read_record(write(tmp_path, as_json(JOURNAL))))
    with pytest.raises(MegamodError, match="j: has no line of megamod's loader"):
        one_record(sources[1:])


def test_a_journal_that_is_cut_off_is_an_error_of_one_line(tmp_path: Path) -> None:
    for data in (as_json(JOURNAL)[:-20], as_export(JOURNAL)[:-20]):
        with pytest.raises(MegamodError) as caught:
            read_source(write(tmp_path, data))
        assert caught.value.message == f"{tmp_path / 'j'}: is a journal, but not a whole one"


# What systemd 252 prints, and 257 with its groups and titles; a tenth of a pixel is a millisecond.
PLOT = """\
<?xml version="1.0" standalone="no"?>
<svg width="9999px" height="830px" version="1.1" xmlns="http://www.w3.org/2000/svg">
<!-- This file is a systemd-analyze SVG file. It is best rendered in a   -->
  <text class="sec" x="0.000" y="-5.000" >0.0s</text>
  <text class="sec" x="200.000" y="-5.000" >2.0s</text>
  <rect class="activating" x="190.000" y="20.000" width="120.000" height="19.000" />
  <rect class="active" x="310.000" y="20.000" width="100.000" height="19.000" />
  <rect class="deactivating" x="410.000" y="20.000" width="0.000" height="19.000" />
  <text class="left" x="195.000" y="34.000">dbus.service (1.200s)</text>
<g>
<title>init.scope:
Activating: 1.950</title>
  <rect class="activating" x="195.000" y="40.000" width="0.000" height="19.000" />
  <rect class="active" x="195.000" y="40.000" width="100.000" height="19.000" />
  <text class="left" x="200.000" y="54.000">init.scope</text>
</g>
  <rect class="activating" x="325.000" y="60.000" width="0.000" height="19.000" />
  <text class="right" x="320.000" y="74.000">multi-user.target</text>
  <rect class="activating" x="0.000" y="100.000" width="30.000" height="19.000" />
  <text class="left" x="45.000" y="114.000">Activating</text>
</svg>
"""
TABLE = [
    {"name": "dbus.service", "activated": 3100000, "activating": 1900000, "time": 1200000, "deactivated": 0},
    {"name": "init.scope", "activated": 1950000, "activating": 1950000, "time": 0, "deactivated": 0},
    {"name": "multi-user.target", "activated": 3250000, "activating": 3250000, "time": 0, "deactivated": 0},
]


@pytest.mark.parametrize("plot", [PLOT, json.dumps(TABLE)], ids=["svg", "json"])
def test_the_plot_of_systemd_analyze_joins_a_serial_log(tmp_path: Path, plot: str) -> None:
    source = read_source(write(tmp_path, plot))
    record = one_record([source, read_source(write(tmp_path, LOG, "log"))])
    assert units(record) == [("dbus.service", 1_900_000, 3_100_000, "")]
    assert record.marks == (Mark(name="multi-user.target", time=3_250_000_000),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1min 6.673s dev-vdc.device\n    38.924s udev.service\n", "does not tell when a unit started"),
        ("-> Unit a.service:\n\tDescription: a\n", "are whole seconds of the day"),
        ("[]", "has no unit with times"),
        ("[1]", "is JSON of another kind"),
    ],
)
def test_what_has_no_times_is_refused_with_what_has(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(MegamodError) as caught:
        read_source(write(tmp_path, text))
    assert message in caught.value.message
    assert "systemd-analyze plot" in (caught.value.hint or "")


def test_units_and_marks_are_in_every_form_of_the_chart(tmp_path: Path) -> None:
    record = read_record(write(tmp_path, as_json(JOURNAL)))
    again = record_from(json.loads(record_json(record)), source=record.title)
    assert again == record
    for text in (svg_chart(record), text_chart(record), trace_json(record)):
        assert "dbus.service" in text and "multi-user.target" in text
    tracks = {event["tid"] for event in json.loads(trace_json(record))["traceEvents"] if event.get("cat") == "unit"}
    assert len(tracks) == 2  # both units start at the same time
