"""What would shorten a boot beyond its image: words of the kernel's command line, and options of its configuration.

Only with figures from the boot itself: what a wait, a test or a benchmark has taken there. The kernel's own initcalls
are known with `initcall_debug` alone (`megamod chart --boot … --initcalls`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from megamod.analyze.chart.record import BootRecord, Kind
from megamod.boot.kernel_log import whole_log
from megamod.common.text import human_bytes, human_seconds

_LEAST = 5_000_000
"""Nanoseconds: what saves less is not worth a word."""

# A boot prints each byte of a line as ten bits, and before it the time in brackets; without a number in console= a
# port has what the firmware left, or 9600 baud; 115200 is the quickest that is usual
# (Documentation/admin-guide/serial-console.rst, 6.1).
_PORT = re.compile(r"\bconsole=(tty(?:S|AMA|O|LP|mxc|MSM|SC|PS|AS|SAC|UL)\d+)(?:,(\d+))?")
_BITS, _STAMP, _USUAL = 10, 17, 115200
# What initcall_debug and the tracer say, for which the chart has asked.
_MEASURING = re.compile(r"calling  |initcall |probe of |copied: |module_load: ")

# Function of an initcall → the word or option, and what is given up. Source: crypto/algapi.c crypto_start_tests(),
# lib/raid6/algos.c, crypto/xor.c, drivers/input/serio/i8042.c,
# drivers/tty/serial/8250/8250_core.c, drivers/block/loop.c, kernel/trace/, net/ipv4/ipconfig.c, init/initramfs.c (6.1).
_WORDS: Mapping[str, tuple[str, str]] = {
    "crypto_algapi_init": (
        "cryptomgr.notests=1",
        "the kernel's ciphers are not tested when it starts, so not with fips=1, which demands it",
    ),
    "i8042_init": ("i8042.noaux", "a mouse on PS/2 is not looked for"),
    "serial8250_init": ("8250.nr_uarts=1", "serial ports beyond the first"),
    "loop_init": ("max_loop=0", "loop devices are made when somebody asks for one"),
    "ip_auto_config": ("no ip=", "the network is configured in user space"),
    "populate_rootfs": ("no initramfs_async=0", "nothing: the image is unpacked beside the initcalls"),
}
_OPTIONS: Mapping[str, tuple[str, str]] = {
    "raid6_select_algo": ("RAID6_PQ_BENCHMARK=n", "the first routine that the processor has is taken"),
    "calibrate_xor_blocks": ("MD_RAID456=m, BTRFS_FS=m", "XOR_BLOCKS is a module then"),
    "event_trace_init": ("FTRACE=n", "tracing"),
    "trace_eval_sync": ("FTRACE=n", "tracing"),
    "tracer_init_tracefs": ("FTRACE=n", "tracing"),
    "init_kprobe_trace": ("KPROBE_EVENTS=n", "dynamic events of the tracer"),
    "ikconfig_init": ("IKCONFIG=n", "/proc/config.gz"),
    "damon_sysfs_init": ("DAMON_SYSFS=n", "DAMON's interface"),
}
_SLOW_INITS: Mapping[str, str] = {
    "raid6_pq": "measures which routine is fastest (only another kernel could: RAID6_PQ_BENCHMARK=n)",
    "xor": "measures which routine is fastest",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """*word*: what to write; *saves*: nanoseconds, *most* if it is a bound; *costs*: what is given up. *config*: only
    another kernel configuration could."""

    word: str
    saves: int
    costs: str
    most: bool = False
    config: bool = False

    def sentence(self) -> str:
        """One line for people."""
        about = "up to" if self.most else "about"
        who = f"a kernel with {self.word}" if self.config else self.word
        return f"{who} saves {about} {human_seconds(self.saves / 1e9)}: {self.costs}"


def advice_of(record: BootRecord, text: str) -> tuple[str, ...]:
    """Sentences on the boot of *record*, whose log is *text*: what saves most first."""
    end = record.user_space
    lines = [(at.time, at.text) for at in whole_log(text) if at.time is not None and (end is None or at.time <= end)]
    command = next(
        (words.partition(": ")[2] for _, words in lines if re.match(r"(Kernel c|C)ommand line: ", words)), ""
    )
    found = [*_initcalls(record, command), *_inits(record), *_usb(lines), *_console(lines, command), *_delay(command)]
    found = [each for each in found if each.saves >= _LEAST]
    return tuple(each.sentence() for each in sorted(found, key=lambda each: -each.saves))


def _initcalls(record: BootRecord, command: str) -> Iterator[Advice]:
    # With the one the tests cannot be left out; without the other the image is unpacked beside the rest, if at all.
    never = {"crypto_algapi_init"} if "fips=1" in command.split() else set()
    never |= {"populate_rootfs"} if "initramfs_async=0" not in command.split() else set()
    spent: dict[tuple[str, str, bool], int] = {}
    for span in (each for top in record.line for each in top.walk() if each.kind == Kind.INITCALL):
        for table, config in ((_WORDS, False), (_OPTIONS, True)):
            if span.name in table and span.name not in never:
                key = (*table[span.name], config)
                spent[key] = spent.get(key, 0) + span.duration
    for (word, costs, config), saves in spent.items():
        yield Advice(word=word, saves=saves, costs=costs, config=config)


def _inits(record: BootRecord) -> Iterator[Advice]:
    """Members that measure something in their init, before user space."""
    early = [each for top in record.before_user_space() for each in top.walk() if each.kind == Kind.INIT]
    for name, why in _SLOW_INITS.items():
        saves = sum(span.duration for span in early if span.name == name)
        yield Advice(word=f"what needs {name} in a deferred stage", saves=saves, costs=f"its init {why}")


def _usb(lines: Sequence[tuple[int, str]]) -> Iterator[Advice]:
    """usb_storage waits before it looks at a device (drivers/usb/storage/usb.c usb_stor_scan_dwork(), 6.1)."""
    hosts: dict[str, int] = {}
    disks: dict[str, str] = {}
    waits: dict[str, int] = {}
    for time, words in lines:
        if match := re.match(r"scsi host(\d+): usb-storage", words):
            hosts[match[1]] = time
        elif (match := re.match(r"scsi (\d+):0:0:0: (?:Direct|Sequential|CD)", words)) and match[1] in hosts:
            waits.setdefault(match[1], time - hosts[match[1]])
        elif match := re.match(r"sd (\d+):\S+ \[(\w+)\]", words):
            disks.setdefault(match[2], match[1])
        elif match := re.match(r"megamod: root /dev/(sd[a-z]+)\d* ", words):
            host = disks.get(match[1], "")
            costs = "a stick that needs the time to get ready may not be found at once"
            yield Advice(word="usb_storage.delay_use=0", saves=waits.get(host, 0), costs=costs)


def _console(lines: Sequence[tuple[int, str]], command: str) -> Iterator[Advice]:
    words = command.split()
    quiet = "quiet" in words or any(re.fullmatch(r"loglevel=[0-4]", word) for word in words)
    port = _PORT.search(command)
    if port is None or quiet:
        return
    baud = int(port[2] or _USUAL)
    size = sum(len(words.encode()) + _STAMP for _, words in lines if not _MEASURING.match(words))
    costs = f"{human_bytes(size)} of messages go through {port[1]} at {baud} baud; they stay in dmesg"
    yield Advice(word="quiet", saves=round(size * _BITS * 1e9 / baud) if baud else 0, costs=costs, most=True)


def _delay(command: str) -> Iterator[Advice]:
    if match := re.search(r"\brootdelay=(\d{1,4})\b", command):
        costs = "the loader waits for the root as long as it takes anyway"
        yield Advice(word="no rootdelay=", saves=int(match[1]) * 1_000_000_000, costs=costs)


def advice_lines(advice: Sequence[str]) -> list[str]:
    """*advice* below a heading; nothing for none."""
    return ["", "what else would shorten the boot:", *(f"  {sentence}" for sentence in advice)] if advice else []
