"""Lines of the log → the record of a boot.

The loader (process 1) and the stage keeper each do one thing after the other and say a line when it is done: a line
ends the span that began with the last line of the same task. Lines that only `megamod.times` brings are spans too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from megamod.analyze.chart.calls import CallDraft
from megamod.analyze.chart.kernel_phases import (
    before_clock,
    kernel_span,
    module_inits,
    processors_of,
    release_of,
    unpack_span,
)
from megamod.analyze.chart.probes import probes_of, with_probes
from megamod.analyze.chart.record import BootRecord, Kind, Mark, Span, filled, with_wait
from megamod.analyze.chart.untimed import StageTimes, stages_in_a_row
from megamod.boot.console import INIT_EXEC, ROOT_MOUNTED, STAGE_DONE, STAGE_TRIGGERED, parse_console
from megamod.boot.kernel_log import Line
from megamod.boot.timeline import failure_words
from megamod.common.text import counted

_OWN = "megamod: "
_MEASURING_MOST = 200_000
"""Nanoseconds that a `used` line takes at most, by what it does; under icount it was 60 to 110 µs on 5.10 to 7.2."""
_TOOK = re.compile(r"load (\S+) took (\d+) us: (.*)")
_INITS = re.compile(r"inits (\S+)((?: \S+=\d+)+)")
_USED = re.compile(r"used (\d+) ns")
_LINKED = re.compile(r"module_load: (\S+)")


def record_of(lines: Sequence[Line], *, title: str) -> BootRecord:
    """The record of the boot that *lines* tell of, as `read_lines` gives them."""
    # With several processors a line may come a moment too late.
    timed = sorted((line for line in lines if line.time is not None), key=lambda line: line.time or 0)
    known = parse_console("\n".join(_printed(line) for line in lines))
    failures = tuple(failure_words(failure) for failure in known.failures)
    if not any(line.text.startswith(_OWN) for line in timed):
        return replace(_without_times(lines, title=title), failures=failures)
    return replace(_Course(timed, alone=processors_of(timed) in (1, None)).record(title), failures=failures)


def _printed(line: Line) -> str:
    return line.text if line.time is None else f"[{line.time / 1e9:12.6f}] {line.text}"


@dataclass(slots=True, kw_only=True)
class _Task:
    """What one task has told: the end of its last span, its spans, and the stage that it is loading."""

    at: int = 0
    spans: list[Span] = field(default_factory=list)
    stage: str | None = None
    stage_start: int = 0
    detail: str = ""
    parts: list[Span | CallDraft] = field(default_factory=list)
    used: tuple[int, int] | None = None

    def close(self, name: str, kind: Kind, time: int, *, detail: str = "") -> None:
        """What went on since the last line, until *time*."""
        time = max(time, self.at)
        if time <= self.at and kind in (Kind.LOADER, Kind.MEASURING):
            return
        where = self.spans if self.stage is None else self.parts
        last = where[-1] if where else None
        if isinstance(last, Span) and (last.name, last.kind) == (name, kind) and not last.parts:
            where[-1] = replace(last, duration=time - last.start)
        else:
            where.append(Span(name=name, kind=kind, start=self.at, duration=time - self.at, detail=detail))
        self.at = time

    def begin(self, stage: str, time: int, detail: str) -> None:
        self.stage, self.stage_start, self.detail, self.at, self.parts = stage, time, detail, time, []

    def finish(self, time: int) -> None:
        assert self.stage is not None
        time = max(time, self.at)
        self.close("between the calls", Kind.LOADER, time)
        parts = [part.span() if isinstance(part, CallDraft) else part for part in self.parts]
        start = self.stage_start
        whole = Span(name=self.stage, kind=Kind.STAGE, start=start, duration=time - start, detail=self.detail)
        self.spans.append(filled(whole, parts))
        self.stage = None

    def calls(self) -> list[CallDraft]:
        return [part for part in self.parts if isinstance(part, CallDraft)]

    def move_later(self, call: CallDraft, by: int) -> None:
        """Move the start of *call* at least *by* nanoseconds later, if there is room: its inits are logged after it.

        The call is put halfway between the earliest and the latest start, as the kernel works after the last init too.
        """
        at = self.parts.index(call)
        after = self.parts[at + 1] if at + 1 < len(self.parts) else None
        if by <= 0 or not isinstance(after, Span):
            return
        room = after.duration if call.copied is None else min(after.duration, call.copied - call.start)
        if room < by:
            return
        by = (by + room) // 2
        before = Span(name="between the calls", kind=Kind.LOADER, start=call.start, duration=by)
        if at and isinstance(last := self.parts[at - 1], Span) and last.name == before.name:
            before = replace(last, duration=last.duration + by)
            at -= 1
        call.start += by
        after = replace(after, start=after.start + by, duration=after.duration - by)
        self.parts[at : self.parts.index(call) + 2] = [before, call, *([after] if after.duration else [])]


class _Course:
    def __init__(self, lines: Sequence[Line], *, alone: bool) -> None:
        self._lines = lines
        self._alone = alone
        self._inits = module_inits(lines)
        self._loader = _Task()
        self._keeper = _Task()
        self._speaker = self._loader
        self._critical_done = False
        self._broken = False
        self._started: int | None = None
        self._user_space: tuple[int, str] | None = None
        self._copied: list[int] = []
        self._linked: dict[str, int] = {}
        self._notes: list[str] = []
        self._marks: list[Mark] = []

    def record(self, title: str) -> BootRecord:
        first = next(line.time for line in self._lines if line.text.startswith(_OWN) and line.time is not None)
        kernel = kernel_span(self._lines, until=first)
        self._loader.spans.append(kernel)
        self._loader.at = kernel.end
        for line in self._lines:
            assert line.time is not None
            # Nothing of the loader's is before the kernel has started it, whatever a damaged log says.
            time = max(line.time, self._loader.at if self._speaker is self._loader else line.time)
            if line.text.startswith(_OWN):
                self._own(time, line.text.removeprefix(_OWN))
            elif line.text.startswith("copied: "):
                self._copied.append(line.time)
            elif match := _LINKED.match(line.text):
                self._linked[match[1]] = line.time
        return self._finished(title)

    def _own(self, time: int, text: str) -> None:
        if text == "start":
            self._loader.close("start of the loader", Kind.LOADER, time)
            self._started = time
        elif match := STAGE_TRIGGERED.fullmatch(text):
            self._begin(match[1], match[2], time)
        elif match := _USED.fullmatch(text):
            if self._broken:
                self._broken = False
                self._speaker.close("a shell at a break", Kind.MEASURING, time)
            elif self._speaker.stage is None and self._speaker.spans[-1].kind != Kind.ROOT:
                self._speaker.close("handing over", Kind.LOADER, time)
            # The loader gives up the processor for a moment here: what others then do is work, and is not taken off.
            self._speaker.close("measuring", Kind.MEASURING, min(time, self._speaker.at + _MEASURING_MOST))
            self._speaker.close("console and other tasks", Kind.LOADER, time)
            self._wait(self._speaker, time, int(match[1]))
        elif match := _TOOK.fullmatch(text):
            self._took(match[1], int(match[2]) * 1000, match[3], time)
        elif match := _INITS.fullmatch(text):
            self._members(match[1], match[2], time)
        elif STAGE_DONE.fullmatch(text):
            if self._speaker.stage is not None:
                self._critical_done |= self._speaker is self._loader
                self._speaker.finish(time)
        elif match := ROOT_MOUNTED.fullmatch(text):
            self._hand_over(time)
            self._loader.close("root found and mounted", Kind.ROOT, time, detail=f"{match[1]} {match[2]}")
        elif match := INIT_EXEC.fullmatch(text):
            self._hand_over(time)
            self._loader.close("handing over", Kind.LOADER, time)
            self._user_space = time, match[1]
            if self._keeper.stage is not None:  # what comes now is of the stage that the keeper was loading
                self._speaker = self._keeper
        elif text.startswith("break at "):
            self._speaker.close("handing over", Kind.LOADER, time)
            self._broken = True
        elif self._user_space is not None and self._speaker is self._loader:
            pass  # the keeper says what it waits for; the loader is gone
        elif (
            not text.startswith(("load ", "member ", "waiting for root", "counter "))
            or "is off during this call" in text
        ):
            self._speaker.close("between the calls" if self._speaker.stage else "loader", Kind.LOADER, time)

    def _begin(self, name: str, trigger: str, time: int) -> None:
        if self._critical_done or self._user_space is not None:
            self._speaker = self._keeper
        else:
            self._speaker = self._loader
            self._loader.close("plan read" if self._started is not None else "before the loader", Kind.LOADER, time)
        if trigger == "path" and not self._marks:
            self._marks.append(Mark(name=f"path of stage {name}", time=time))
        self._give_up(self._speaker, time)
        self._speaker.begin(name, max(time, self._speaker.at), f"triggered by {trigger}")
        self._copied.clear()

    def _hand_over(self, time: int) -> None:
        self._speaker = self._loader
        self._give_up(self._loader, time)

    def _give_up(self, task: _Task, time: int) -> None:
        if task.stage is not None:
            self._notes.append(f"stage {task.stage}: the log does not say when it was done")
            task.finish(time)

    def _took(self, name: str, duration: int, detail: str, time: int) -> None:
        task = self._speaker
        if task.stage is None:
            return
        time = max(time, task.at)
        # The call began a moment after the line before: as late as the kernel's own event wants it.
        late = self._linked.get(name, 0) - task.at - duration
        task.close("between the calls", Kind.LOADER, task.at + max(0, min(late, time - task.at - duration)))
        start = task.at
        call = CallDraft(name=name, start=start, duration=min(duration, time - start), detail=detail)
        call.copied = next((copied for copied in self._copied if copied >= start), None)
        call.linked = self._linked.get(name)
        call.ran = self._inits.get(name)
        task.parts.append(call)
        task.at = call.start + call.duration
        task.close("results read", Kind.LOADER, time)
        self._copied.clear()

    def _members(self, name: str, pairs: str, time: int) -> None:
        task = self._speaker
        task.close("measuring", Kind.MEASURING, time)
        for call in task.calls():
            if call.name == name:
                call.inits |= {member: int(value) for member, _, value in (p.rpartition("=") for p in pairs.split())}
                task.move_later(call, (call.linked or 0) + sum(call.inits.values()) - call.start - call.duration)

    def _wait(self, task: _Task, time: int, used: int) -> None:
        """Since the last of these lines the processor was in use for the difference; the rest of that time was a
        wait.
        """
        before, task.used = task.used, (time, used)
        if not self._alone:
            return
        if before is not None:
            waited = max(0, (time - before[0]) - (used - before[1]))
            if task.stage is not None and (calls := task.calls()):
                calls[-1].waited = waited
            elif task.stage is None and len(task.spans) > 1:
                whose = max((n for n, span in enumerate(task.spans) if span.kind != Kind.MEASURING), default=0)
                if not task.spans[whose].parts:
                    task.spans[whose] = with_wait(task.spans[whose], waited)

    def _finished(self, title: str) -> BootRecord:
        self._give_up(self._loader, self._lines[-1].time or 0)
        self._give_up(self._keeper, self._keeper.at)
        beside = list(self._keeper.spans)
        unpacked = unpack_span(self._lines)
        if unpacked is not None:
            beside.insert(0, unpacked)
        line = list(self._loader.spans)
        if self._user_space is not None:
            at, path = max(self._user_space[0], self._loader.at), self._user_space[1]
            end = max([at, *(span.end for span in self._keeper.spans)])
            if end > at:
                line.append(Span(name="user space", kind=Kind.USERSPACE, start=at, duration=end - at, detail=path))
        calls = [each for span in (*line, *beside) for each in span.walk() if each.kind == Kind.CALL]
        whole = sum(not call.parts for call in calls)
        if whole:
            self._notes.append(f"{whole} of {counted(len(calls), 'call')} in one piece: the log does not say more")
        probes = probes_of(self._lines)
        return BootRecord(
            title=title,
            kernel=release_of(self._lines),
            line=tuple(with_probes(span, probes) for span in line),
            beside=tuple(with_probes(span, probes) for span in beside),
            user_space=self._user_space[0] if self._user_space is not None else None,
            loader=self._started,
            failures=(),
            notes=tuple(self._notes),
            before=before_clock(self._lines),
            marks=tuple(self._marks),
        )


def _without_times(lines: Sequence[Line], *, title: str) -> BootRecord:
    stages: list[StageTimes] = []
    for line in lines:
        text = line.text.removeprefix(_OWN)
        if match := STAGE_TRIGGERED.fullmatch(text):
            stages.append(StageTimes(name=match[1], detail=f"triggered by {match[2]}"))
        elif stages and (match := _TOOK.fullmatch(text)):
            stages[-1].calls.append(CallDraft(name=match[1], start=0, duration=int(match[2]) * 1000, detail=match[3]))
        elif stages and (match := _INITS.fullmatch(text)):
            for call in stages[-1].calls:
                if call.name == match[1]:
                    pairs = (pair.rpartition("=") for pair in match[2].split())
                    call.inits |= {member: int(value) for member, _, value in pairs}
    return stages_in_a_row(stages, title=title, kernel=release_of(lines))
