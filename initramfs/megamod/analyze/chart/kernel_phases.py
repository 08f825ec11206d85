"""Lines of the log → what the kernel did before the loader: its phases, initcalls, and the unpacking of the image."""

from __future__ import annotations

import re
from collections.abc import Sequence

from megamod.analyze.chart.record import Kind, Span
from megamod.boot.kernel_log import Line

_CALLING = re.compile(r"calling  (\S+?)\+0x\S+(?: \[(\S+)\])? @ (\d+)")
_CALLED = re.compile(r"initcall (\S+?)\+0x\S+(?: \[(\S+)\])? returned (-?\d+) after \d+ usecs")

# Where each phase begins. The first line that matches any of a phase's patterns counts, and phases come in this order.
PHASES = ("memory, clocks, processors", "built-in drivers and subsystems", "memory freed and protected")
_PHASES = tuple(zip(PHASES, (r"\A", r"smp: Brought up|devtmpfs: initialized", r"Freeing unused "), strict=True))
_RUN = re.compile(r"Run (\S+) as init process")


def release_of(lines: Sequence[Line]) -> str:
    """The kernel's release, empty if the log does not begin with it."""
    first = (re.match(r"Linux version (\S+)", line.text) for line in lines)
    return next((match[1] for match in first if match), "")


def processors_of(lines: Sequence[Line]) -> int | None:
    """How many processors were brought up."""
    found = (re.search(r"smp: Brought up .*?(\d+) CPUs?", line.text) for line in lines)
    return next((int(match[1]) for match in found if match), None)


def kernel_span(lines: Sequence[Line], *, until: int) -> Span:
    """The kernel from 0 to the start of the first program, which is *until* unless the log says when."""
    end = next((line.time for line in lines if line.time is not None and _RUN.match(line.text)), until)
    starts: list[tuple[int, str]] = [(0, _PHASES[0][0])]
    for name, pattern in _PHASES[1:]:
        found = (line.time for line in lines if line.time is not None and re.match(pattern, line.text))
        time = next((time for time in found if starts[-1][0] <= time <= end), None)
        if time is not None:
            starts.append((time, name))
    calls = _initcalls(lines)
    phases = []
    for number, (start, name) in enumerate(starts):
        stop = starts[number + 1][0] if number + 1 < len(starts) else end
        phases.append(_phase(name, start, stop, [call for call in calls if start <= call.start and call.end <= stop]))
    return Span(name="kernel", kind=Kind.KERNEL, start=0, duration=end, parts=tuple(phases))


def before_clock(lines: Sequence[Line]) -> int | None:
    """Nanoseconds that the processor's counter had run when the kernel's clock began, None if the log does not tell.

    On x86 the frequency is the kernel's own finding (determine_cpu_tsc_frequencies, arch/x86/kernel/tsc.c, 6.1).
    """
    hertz = 0.0
    for line in lines:
        if match := re.match(r"tsc: (?:Detected|Refined TSC clocksource calibration:) (\d+\.\d+) MHz", line.text):
            hertz = float(match[1]) * 1e6
        elif (match := re.match(r"megamod: counter (\d+) of (\d+) a second", line.text)) and line.time is not None:
            hertz = float(match[2]) or hertz
            return max(0, round(int(match[1]) * 1e9 / hertz) - line.time) if hertz else None
    return None


def unpack_span(lines: Sequence[Line]) -> Span | None:
    """The unpacking of the image, which newer kernels do beside the initcalls (do_populate_rootfs,
    init/initramfs.c).
    """
    start = None
    for line in lines:
        if re.match(r"Trying to unpack rootfs image|Unpacking initramfs", line.text):
            start = line.time
        elif start is not None and line.time is not None and (match := re.match(r"Freeing initrd (.*)", line.text)):
            name = "image unpacked"
            return Span(name=name, kind=Kind.UNPACK, start=start, duration=line.time - start, detail=match[1])
    return None


def module_inits(lines: Sequence[Line]) -> dict[str, tuple[int, int]]:
    """With initcall_debug: module → start and duration of its init; of one loaded twice the last."""
    found: dict[str, tuple[int, int]] = {}
    begun: dict[str, int] = {}
    for line in lines:
        if line.time is None:
            continue
        if (match := _CALLING.match(line.text)) and match[2]:
            begun[match[2]] = line.time
        elif (match := _CALLED.match(line.text)) and match[2] in begun:
            start = begun.pop(match[2])
            found[match[2]] = (start, line.time - start)
    return found


def _initcalls(lines: Sequence[Line]) -> list[Span]:
    """The kernel's own initcalls, by the first process; what one of them calls meanwhile is part of it."""
    calls: list[Span] = []
    open_call: tuple[str, int] | None = None
    for line in lines:
        if line.time is None:
            continue
        if (match := _CALLING.match(line.text)) and not match[2] and match[3] == "1" and open_call is None:
            open_call = match[1], line.time
        elif (match := _CALLED.match(line.text)) and open_call is not None and match[1] == open_call[0]:
            name, start = open_call
            detail = "" if match[3] == "0" else f"returned {match[3]}"
            calls.append(Span(name=name, kind=Kind.INITCALL, start=start, duration=line.time - start, detail=detail))
            open_call = None
    return calls


def _phase(name: str, start: int, end: int, calls: Sequence[Span]) -> Span:
    parts: list[Span] = []
    at = start
    for call in calls:
        if call.start > at:
            parts.append(Span(name="between initcalls", kind=Kind.KERNEL, start=at, duration=call.start - at))
        parts.append(call)
        at = call.end
    if parts and at < end:
        parts.append(Span(name="after the initcalls", kind=Kind.KERNEL, start=at, duration=end - at))
    return Span(name=name, kind=Kind.KERNEL, start=start, duration=end - start, parts=tuple(parts))
