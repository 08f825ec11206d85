"""The text of a log → its lines with times: a serial console, ``dmesg``, ``dmesg -t``, ``journalctl -o
short-monotonic``.

Only lines of the kernel's log count, each once, whatever a program on the console has written between them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from megamod.boot.console import kernel_lines
from megamod.common.errors import MegamodError

_FIRST_LINE = re.compile(r"^.*\[ *0\.000000\](?:\[ *[TC]\d+\])? (?:\S+ kernel: )?Linux version ", re.MULTILINE)
_LOADER_START = re.compile(r"\[ *(\d+\.\d+)\].*megamod: start$", re.MULTILINE)
# journald takes the name at the front of a line that a program has written into the kernel's log for the sender.
_JOURNAL = re.compile(r"\S+ (?:kernel: |(?=megamod: ))")
# dmesg -T, --time-format=ctime; -H, reltime; iso; journalctl's own way. Times of day are not a clock: they are set in a
# boot.
_DAY_TIMES = re.compile(
    r"^(?:\[[A-Z][a-z]{2} [A-Z][a-z]{2} +\d+ [\d:]{8} \d{4}\]|\[[A-Z][a-z]{2}\d+ +[\d:]{5}\]|\[ *[<+] *\d+\.\d+>?\]"
    r"|\d{4}-\d\d-\d\dT[\d:]{8}[,.]\d+\S*|[A-Z][a-z]{2} \d\d [\d:]{8} \S+ kernel:) ",
    re.MULTILINE,
)
# What the chart reads. The kernel's are said by smp_init, driver_init, do_populate_rootfs, free_initrd_mem,
# free_initmem, run_init_process, initcall_debug's trace_initcall_*_cb (6.1), the others by the loader and the events
# that `live.EVENT_WORDS` asks for.
_MARK = re.compile(
    r"Linux version |megamod: |Run \S+ as init process|smp: Brought up|devtmpfs: initialized"
    r"|Trying to unpack rootfs image|Unpacking initramfs|Freeing initrd memory|Freeing unused "
    r"|tsc: (?:Detected|Refined)|probe of |calling  |initcall |copied: |module_load: "
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line of the kernel's log; *time* in nanoseconds, None where the log has no times."""

    time: int | None
    text: str


def read_lines(text: str, *, name: str) -> tuple[Line, ...]:
    """The lines of a log that the chart reads; *name* is the log's in messages.

    Raises MegamodError for times of day, and for a text without a line of the loader's.
    """
    lines = tuple(marks(_last_boot(text)))
    if not any(line.text.startswith("megamod: ") and not line.text.startswith("megamod: debug") for line in lines):
        if _DAY_TIMES.search(text):
            hint = "dmesg without -T, -H and --time-format; journalctl -k -o short-monotonic"
            raise MegamodError(f"{name}: its times are times of day, and that clock is set during a boot", hint=hint)
        raise MegamodError(f"{name}: no line of megamod's loader is in it", hint="a serial log, or what dmesg prints")
    return lines


def _last_boot(text: str) -> str:
    """A serial log may have several boots: the last one that came to the loader. A log that the guest has printed again
    is none of its own: the loader started at the same time.
    """
    starts = [match.start() for match in _FIRST_LINE.finditer(text)]
    boots = [text[start:end] for start, end in zip([0, *starts], [*starts, len(text)], strict=True)]
    started = [(boot, match[1]) for boot in boots if (match := _LOADER_START.search(boot))]
    return started[-1][0] if len({time for _boot, time in started}) > 1 else text


def marks(text: str) -> Iterable[Line]:
    """The lines that the chart reads, in the order of the log."""
    return (line for line in _all_lines(text) if _MARK.match(line.text))


def whole_log(text: str) -> tuple[Line, ...]:
    """All lines of the last boot in a log."""
    return tuple(_all_lines(_last_boot(text)))


def _all_lines(text: str) -> Iterable[Line]:
    for seconds, words in kernel_lines(text):
        words = _JOURNAL.sub("", words, count=1) if seconds is not None and _JOURNAL.match(words) else words
        yield Line(time=None if seconds is None else round(seconds * 1e6) * 1000, text=words)
