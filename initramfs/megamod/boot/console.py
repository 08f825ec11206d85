"""What a boot's console says: when each step came, what each load took, what failed.

Needs the text of a serial console. The times are the kernel's own (printk, seconds since it took over the clock). A
line counts once, even if the guest prints its log again at the end. The loader's lines are those of loader/README.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from megamod.common.text import human_seconds

# "[    1.234567] ", with CONFIG_PRINTK_CALLER "[    1.234567][    T1] " (info_print_prefix, kernel/printk/printk.c).
_PRINTK = r"\[ *(?P<time>\d+\.\d{6})\](?:\[ *[TC]\d+\])? "
# A line that the guest's programs have begun may stand before the kernel's.
_LINE = re.compile(rf"(?:{_PRINTK}|^)(?P<text>megamod: .*|(?<=\] ).*)$")

_RUN_INIT = re.compile(r"Run (\S+) as init process")
STAGE_TRIGGERED = re.compile(r"stage (\S+) triggered by (\S+)")
STAGE_DONE = re.compile(r"stage (\S+) done")
_TOOK = re.compile(r"load (\S+) took (\d+) us: (\d+) ok, (\d+) failed, (\d+) skipped")
ROOT_MOUNTED = re.compile(r"root (\S+) (\S+) mounted")
INIT_EXEC = re.compile(r"exec (\S+)")
_MEGAMOD_FAILURES = re.compile(r"error: .*|load \S+ failed: .*|member \S+ failed: .*|member \S+ skipped: needs .*")

# What the kernel says when something is wrong, by the functions that say it (6.1): panic; die and the page fault;
# report_bug, __warn; verify_exported_symbols, simplify_symbol, check_version, check_modinfo (kernel/module/main.c);
# sysfs_warn_dup, driver_register, kobject_add_internal; kernel/watchdog.c, hung_task.c, rcu/tree_stall.h.
_KERNEL_FAILURES = re.compile(
    r"Kernel panic|\bOops\b|BUG: |general protection fault|^WARNING: |^RIP: |kernel BUG at"
    r"|[Ss]tack segment|invalid opcode:"
    r"|exports duplicate symbol|Unknown symbol|disagrees about version of symbol|no symbol version for"
    r"|version magic '.*' should be|already registered|cannot create duplicate filename|kobject_add_internal failed"
    r"|soft lockup|blocked for more than \d+ seconds|detected (?:expedited )?stalls?|self-detected stall"
    r"|[Oo]ut of memory|Unable to mount root|Loading of (?:unsigned )?module"
)


class EventKind(StrEnum):
    """The steps of a boot, in the order in which the first of each comes."""

    KERNEL = "kernel"
    INIT = "init"
    TRIGGERED = "triggered"
    LOADED = "loaded"
    ROOT = "root"
    USERSPACE = "userspace"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A step: *seconds* on the kernel's clock (None without printk times), *name* that of its stage."""

    kind: EventKind
    seconds: float | None
    name: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadTime:
    """One module that the loader loaded, with the time of the call, and what became of its members."""

    stage: str
    name: str
    microseconds: int
    ok: int
    failed: int
    skipped: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A line that tells of something gone wrong."""

    seconds: float | None
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """A boot as its console shows it; *user_space* is whether a real init was started."""

    events: tuple[Event, ...]
    loads: tuple[LoadTime, ...]
    failures: tuple[Failure, ...]
    user_space: bool

    def first(self, kind: EventKind, name: str | None = None) -> Event | None:
        """The first event of *kind*, of the stage *name* if that is given."""
        found = (event for event in self.events if event.kind == kind and name in (None, event.name))
        return next(found, None)

    def load_seconds(self, stage: str | None = None) -> float:
        """The time of all load calls, or of those of one stage, in seconds."""
        return sum(load.microseconds for load in self.loads if stage in (None, load.stage)) / 1e6

    def stages_done(self) -> frozenset[str]:
        """The stages that have been loaded."""
        return frozenset(event.name for event in self.events if event.kind == EventKind.LOADED)


def parse_console(console: str) -> Timeline:
    """The timeline of a boot from the text of its console."""
    events = [Event(kind=EventKind.KERNEL, seconds=0.0, name="", detail="")]
    loads: list[LoadTime] = []
    failures: list[Failure] = []
    stage = ""
    executed: str | None = None
    for seconds, text in kernel_lines(console):
        own = text.removeprefix("megamod: ") if text.startswith("megamod: ") else None
        if own is None:
            if match := _RUN_INIT.match(text):
                events.append(Event(kind=EventKind.INIT, seconds=seconds, name="", detail=match[1]))
            elif _KERNEL_FAILURES.search(text):
                failures.append(Failure(seconds=seconds, text=text))
        elif match := STAGE_TRIGGERED.fullmatch(own):
            stage = match[1]
            events.append(Event(kind=EventKind.TRIGGERED, seconds=seconds, name=stage, detail=match[2]))
        elif match := _TOOK.fullmatch(own):
            took, ok, failed, skipped = (int(field) for field in match.groups()[1:])
            loads.append(LoadTime(stage=stage, name=match[1], microseconds=took, ok=ok, failed=failed, skipped=skipped))
        elif match := STAGE_DONE.fullmatch(own):
            detail = _loaded_detail([load for load in loads if load.stage == match[1]])
            events.append(Event(kind=EventKind.LOADED, seconds=seconds, name=match[1], detail=detail))
        elif match := ROOT_MOUNTED.fullmatch(own):
            events.append(Event(kind=EventKind.ROOT, seconds=seconds, name="", detail=f"{match[1]} {match[2]}"))
        elif match := INIT_EXEC.fullmatch(own):
            executed = match[1]
            events.append(Event(kind=EventKind.USERSPACE, seconds=seconds, name="", detail=executed))
        elif _MEGAMOD_FAILURES.fullmatch(own):
            failures.append(Failure(seconds=seconds, text=own))
            # The loader says exec before it can know whether the kernel takes the program.
            if executed is not None and own.startswith(f"error: {executed} "):
                executed = None
                events = [event for event in events if event.kind != EventKind.USERSPACE]
    return Timeline(events=tuple(events), loads=tuple(loads), failures=tuple(failures), user_space=executed is not None)


def kernel_lines(console: str) -> Iterator[tuple[float | None, str]]:
    """Time and text of each line that the kernel has printed, each once."""
    seen: set[tuple[str | None, str]] = set()
    for line in console.splitlines():
        match = _LINE.search(line)
        if match is None:
            continue
        time, text = match["time"], match["text"].rstrip()
        # Without times two equal lines may be two events; what is printed again by dmesg has them.
        if time is not None and (time, text) in seen:
            continue
        seen.add((time, text))
        yield (float(time) if time is not None else None), text


def _loaded_detail(loads: list[LoadTime]) -> str:
    modules = sum(load.ok for load in loads)
    parts = [f"{modules} module{'' if modules == 1 else 's'} in {len(loads)} call{'' if len(loads) == 1 else 's'}"]
    parts += [f"{count} failed" for count in [sum(load.failed for load in loads)] if count]
    parts += [f"{count} skipped" for count in [sum(load.skipped for load in loads)] if count]
    return ", ".join([*parts, f"{human_seconds(sum(load.microseconds for load in loads) / 1e6)} in the calls"])
