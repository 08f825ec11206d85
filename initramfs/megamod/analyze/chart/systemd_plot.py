"""What ``systemd-analyze plot`` prints → units while they were starting: its SVG, or with ``--json`` its table.

Both are of src/analyze/analyze-plot.c (systemd 252 to 258). ``blame`` and ``dump`` are not enough: the one has
durations without a start, the other has times of day in whole seconds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import unescape
from typing import Any

from megamod.analyze.chart.record import Mark, Span
from megamod.analyze.chart.userspace import UserSpace, unit_span
from megamod.common.errors import MegamodError

_TARGETS = ("multi-user.target", "graphical.target")
# Where a tick stands and which second it is: the scale depends on an option.
_TICK = re.compile(r'<text class="sec" x="(\d+\.\d+)" y="[-\d.]+" ?>(\d+\.\d)s</text>')
_UNIT = re.compile(
    r'<rect class="activating" x="([-\d.]+)" y="[-\d.]+" width="([-\d.]+)" height="[\d.]+" />'
    r'(?:\s*<rect class="(?:active|deactivating)"[^>]*/>)*\s*<text class="(?:left|right)"[^>]*>([^<]*)</text>'
)
# The legend has such boxes, too.
_NAME = re.compile(r"\S+\.(?:service|socket|device|mount|automount|swap|target|path|timer|slice|scope)")
_DURATION = re.compile(r" \([^()]*\)$")
_BLAME = re.compile(r"\s*(?:\d+(?:h|min|\.?\d*m?s|us) )*\d+(?:min|\.?\d*s|ms|us) \S+\.(?:service|device|mount|target)")
HINT = "systemd-analyze plot, journalctl -b -o json"


def is_plot(text: str) -> bool:
    """Whether *text* is the SVG of systemd-analyze."""
    return "This file is a systemd-analyze SVG file" in text[:4096]


def refuse_others(text: str, *, name: str) -> None:
    """Raises MegamodError for what else systemd-analyze prints."""
    if _BLAME.match(text):
        raise MegamodError(f"{name}: systemd-analyze blame does not tell when a unit started", hint=HINT)
    if re.search(r"^-> Unit \S+:$", text, re.MULTILINE):
        raise MegamodError(f"{name}: the times of systemd-analyze dump are whole seconds of the day", hint=HINT)


def read_plot(text: str, *, name: str) -> UserSpace:
    """The units in the SVG; the scale is known to 10 µs, as the file's numbers have three places."""
    ticks = [(float(x), float(seconds)) for x, seconds in _TICK.findall(text) if float(seconds)]
    if not ticks:
        raise MegamodError(f"{name}: this plot of systemd-analyze has no time scale")
    x, seconds = ticks[-1]
    scale = seconds * 1e9 / x
    units = []
    for left, width, label in _UNIT.findall(text):
        unit = _DURATION.sub("", unescape(label))
        if not _NAME.fullmatch(unit):
            continue
        start = round(float(left) * scale)
        units.append(unit_span(unit, start, start + max(0, round(float(width) * scale))))
    return _found(units, name)


def read_plot_json(rows: Sequence[Any], *, name: str) -> UserSpace:
    """The units of ``systemd-analyze plot --json=short``: microseconds since the kernel's start."""
    units = []
    for row in rows:
        if not isinstance(row, Mapping) or not isinstance(row.get("name"), str):
            raise MegamodError(f"{name}: is JSON of another kind", hint=HINT)
        start, end = row.get("activating"), row.get("activated")
        if isinstance(start, int) and isinstance(end, int) and end >= start >= 0:
            units.append(unit_span(row["name"], start * 1000, end * 1000))
    return _found(units, name)


def _found(units: Sequence[Span], name: str) -> UserSpace:
    if not units:
        raise MegamodError(f"{name}: systemd-analyze's plot has no unit with times", hint=HINT)
    marks = [Mark(name=unit.name, time=unit.end) for unit in units if unit.name in _TARGETS]
    return UserSpace(title=name, units=tuple(unit for unit in units if unit.duration), marks=tuple(marks))
