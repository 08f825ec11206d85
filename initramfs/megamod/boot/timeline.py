"""``megamod boot``: an image in QEMU, and the timeline that its console showed, as a table or JSON.

Needs a kernel that fits the image. Guarantees that the disks given are not changed.
"""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from megamod.boot.console import Event, EventKind, Failure, Timeline, parse_console
from megamod.boot.kernel_log import marks
from megamod.boot.qemu import QemuResult, run_qemu
from megamod.build.plan import PLAN_PATH
from megamod.common.errors import MegamodError
from megamod.common.text import human_seconds, table
from megamod.image.archive import read_image
from megamod.image.cpio import Entry
from megamod.prelink.arch import architecture_of

JSON_VERSION = 1
_LOADERS = ("init", "megamod-init")
_MACHINE = slice(18, 20)  # e_machine, ELF gABI
_SHOWN_FAILURES = 20

# How long a guest may take to power off after its last stage; one that stays up is then ended, which is not a failure.
_LINGER_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BootReport:
    """A finished boot. *ok*: user space was reached, and the guest ended, or had nothing left to load, in time."""

    timeline: Timeline
    result: QemuResult

    @property
    def ok(self) -> bool:
        """Whether the boot counts as good."""
        return self.timeline.user_space and not self.result.timed_out

    @property
    def exit_status(self) -> int:
        """0 if `ok`, else 1."""
        return 0 if self.ok else 1

    def as_table(self) -> str:
        """The table, the failures, how it ended and, if it is not `ok`, the end of the console."""
        lines = [timeline_table(self.timeline), "", self._ending()]
        if not self.ok:
            lines += ["the console's last lines:", *(f"  {line}" for line in self.result.tail().splitlines())]
        return "\n".join(lines)

    def as_json(self) -> str:
        """The same as a JSON document."""
        ending = {
            "ok": self.ok,
            "timed_out": self.result.timed_out,
            "status": self.result.returncode,
            "accelerator": self.result.accel,
            "host_seconds": round(self.result.seconds, 3),
            "lines": [
                {"seconds": None if line.time is None else line.time / 1e9, "text": line.text}
                for line in marks(self.result.console)
            ],
        }
        if not self.ok:
            ending["console_tail"] = self.result.tail()
        return json.dumps({**timeline_dict(self.timeline), **ending}, indent=2) + "\n"

    def _ending(self) -> str:
        result = self.result
        how = f"under {result.accel.upper()} in {result.seconds:.1f} s of this machine's time"
        if result.timed_out:
            return f"ended by the timeout, {how}"
        if not self.timeline.user_space:
            return f"user space was not reached, {how}"
        return f"{'all stages loaded, the guest was still up' if result.stopped else 'the guest has ended'}, {how}"


def boot_image(
    image: Path,
    *,
    vmlinuz: Path,
    disks: Sequence[Path] = (),
    append: str = "",
    icount: bool = False,
    timeout: float = 120.0,
    memory: int = 512,
    wait_for: Sequence[str] | None = None,
) -> BootReport:
    """Boot *image*, made by ``megamod build``, with the kernel *vmlinuz*; the arguments are those of `run_qemu`.

    Without a ``root=`` in *append* the first disk is the root. QEMU and its machine follow from the image's loader. The
    run ends when the guest does, or ten seconds after user space was reached and the last stage was loaded; with
    *wait_for* at once when user space was reached and these stages were loaded. Raises MegamodError for a file that
    cannot be read and for an image without a plan.
    """
    entries = read_image(image)
    stages = _stages_that_end(image, entries) if wait_for is None else wait_for
    result = run_qemu(
        arch=_architecture(entries),
        image=image,
        vmlinuz=vmlinuz,
        disks=disks,
        append=_command_line(append, has_disk=bool(disks)),
        icount=icount,
        timeout=timeout,
        memory=memory,
        until=_all_reached(stages),
        linger=_LINGER_SECONDS if wait_for is None else 0.0,
    )
    return BootReport(timeline=parse_console(result.console), result=result)


def image_architecture(image: Path) -> str:
    """The architecture of *image*, as the loader's programs are called for it."""
    return _architecture(read_image(image))


def _architecture(entries: Sequence[Entry]) -> str:
    """The architecture that the image's loader, or any other program in it, was compiled for (ELF e_machine); this
    machine's if there is none, as in an image whose /init is a script."""
    first = sorted(entries, key=lambda entry: entry.path not in _LOADERS)
    for program in (entry.data for entry in first if entry.data.startswith(b"\x7fELF") and entry.mode & 0o111):
        known = architecture_of(int.from_bytes(program[_MACHINE], "little"))
        if known is not None:
            return known.loader
    return platform.machine()


def stages_of(image: Path) -> list[str]:
    """The stages in the plan of *image*; raises MegamodError if it has none."""
    return [record[1] for record in _stage_records(image, read_image(image))]


def _stages_that_end(image: Path, entries: Sequence[Entry]) -> list[str]:
    """The stages that come without anybody's doing."""
    return [record[1] for record in _stage_records(image, entries) if record[2:3] != ["manual"]]


def _stage_records(image: Path, entries: Sequence[Entry]) -> list[list[str]]:
    plan = next((entry.data for entry in entries if entry.path == PLAN_PATH), None)
    if plan is None:
        raise MegamodError(f"{image}: has no {PLAN_PATH}", hint="megamod build makes an image that has")
    records = [line.split(" ") for line in plan.decode("ascii", "replace").splitlines()]
    return [record for record in records if record[0] == "stage" and len(record) > 1]


def _all_reached(stages: Sequence[str]) -> str:
    """A regular expression for a console that shows user space and all *stages* loaded, in any order."""
    done = "".join(rf"(?=[\s\S]*megamod: stage {re.escape(stage)} done\n)" for stage in stages)
    return rf"\A{done}[\s\S]*megamod: exec \S+\n"


def _command_line(append: str, *, has_disk: bool) -> str:
    words = append.split()
    added = []
    if has_disk and not any(word.startswith("root=") for word in words):
        added.append("root=/dev/vda")
    # The loader's lines have to reach the console whatever the words under test say.
    if any(word == "quiet" or word.startswith("loglevel=") for word in words):
        added.append("ignore_loglevel")
    # A kernel without CONFIG_PRINTK_TIME prints lines without times unless it is asked (kernel/printk/printk.c, 6.1).
    if not any(word.startswith("printk.time=") for word in words):
        added.append("printk.time=1")
    return " ".join([*added, append]).strip()


def timeline_table(timeline: Timeline) -> str:
    """The timeline as plain text: a line an event, then the failures."""
    rows: list[list[str]] = []
    before: float | None = None
    for event in timeline.events:
        passed = event.seconds - before if event.seconds is not None and before is not None else None
        rows.append([_clock(event.seconds), "" if passed is None else f"+{human_seconds(passed)}", _words(event)])
        before = event.seconds if event.seconds is not None else before
    lines = [_right_but_last(["time", "after", "what"], rows)]
    if timeline.failures:
        lines.append(f"\nfailures ({len(timeline.failures)}):")
        shown = timeline.failures[:_SHOWN_FAILURES]
        lines += [f"  {_clock(failure.seconds)}  {failure_words(failure)}" for failure in shown]
        if len(timeline.failures) > len(shown):
            lines.append(f"  … and {len(timeline.failures) - len(shown)} more")
    return "\n".join(lines)


def failure_words(failure: Failure) -> str:
    """The text of a failure for people: one that is not a fault says so."""
    # A driver's init may look for its device at once; the others register, and wait for one.
    return f"{failure.text} (its hardware is not there)" if failure.text.endswith("failed: -ENODEV") else failure.text


def timeline_dict(timeline: Timeline) -> dict[str, object]:
    """The timeline for JSON; times are seconds on the kernel's clock, or null."""
    return {
        "version": JSON_VERSION,
        "user_space": timeline.user_space,
        "events": [
            {"event": event.kind.value, "seconds": event.seconds, "name": event.name, "detail": event.detail}
            for event in timeline.events
        ],
        "loads": [
            {
                "stage": load.stage,
                "name": load.name,
                "microseconds": load.microseconds,
                "ok": load.ok,
                "failed": load.failed,
                "skipped": load.skipped,
            }
            for load in timeline.loads
        ],
        "failures": [{"seconds": failure.seconds, "text": failure.text} for failure in timeline.failures],
    }


def _words(event: Event) -> str:
    match event.kind:
        case EventKind.KERNEL:
            return "kernel start"
        case EventKind.INIT:
            return f"init started: {event.detail}"
        case EventKind.TRIGGERED:
            return f"stage {event.name}: triggered by {event.detail}"
        case EventKind.LOADED:
            return f"stage {event.name}: {event.detail}"
        case EventKind.ROOT:
            return f"root mounted: {event.detail}"
        case EventKind.USERSPACE:
            return f"user space: {event.detail}"


def _clock(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.6f}"


def _right_but_last(header: list[str], rows: list[list[str]]) -> str:
    """A table whose numbers are flush right and whose last column is free text."""
    numbers = table(header[:-1], [row[:-1] for row in rows], left=0).splitlines()
    width = max(len(line) for line in numbers)
    texts = [header[-1], *(row[-1] for row in rows)]
    return "\n".join(f"{line.ljust(width)}  {text}" for line, text in zip(numbers, texts, strict=True))
