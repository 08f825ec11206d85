"""Consoles read as timelines: what Debian 6.1 and the loader wrote to a serial console, cut to what matters."""

from __future__ import annotations

import json

import pytest

from megamod.boot.console import EventKind, Failure, Timeline, parse_console
from megamod.boot.qemu import QemuResult
from megamod.boot.timeline import BootReport

GOOD = """\
[    0.000000] Linux version 6.1.0-56-amd64 (debian-kernel@lists.debian.org) (gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0)
[    0.000000] Command line: console=ttyS0 panic=-1 root=/dev/vda
[    0.244102] Spectre V2 : WARNING: Unprivileged eBPF is enabled with eIBRS on
[    1.780335] Run /init as init process
[    1.780728] megamod: start
[    1.782116] megamod: stage critical triggered by now
[    1.784378] megamod_critical: module verification failed: signature and/or required key missing - tainting kernel
[    1.910447] virtio_blk virtio0: 1/0/0 default/read/poll queues
[    1.912131] megamod: member crc32c_intel failed: -ENODEV
[    1.912182] megamod: load megamod_critical took 129923 us: 21 ok, 1 failed, 0 skipped
[    1.912212] megamod: stage critical done
[    1.913900] EXT4-fs (vda): mounted filesystem with ordered data mode. Quota mode: none.
[    1.913927] megamod: root /dev/vda ext4 mounted
[    1.915533] megamod: exec /sbin/init
demo: user space
[    1.916393] megamod: stage usb triggered by userspace
[    1.951681] megamod: load megamod_usb took 28495 us: 11 ok, 0 failed, 0 skipped
[    1.951700] megamod: load kvm took 505 us: 1 ok, 0 failed, 0 skipped
[    1.951873] megamod: stage usb done
[    2.003765] ACPI: PM: Preparing to enter system sleep state S5
[    2.003787] reboot: Power down
"""

PANIC = """\
[    1.780335] Run /init as init process
[    1.780728] megamod: start
[    1.785000] megamod: error: /megamod/plan:3: unknown record oops
[    1.785100] megamod: error: giving up: the kernel will panic, and panic= decides what follows
[    1.785200] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100
[    1.785300] CPU: 0 PID: 1 Comm: init Not tainted 6.1.0-56-amd64 #1  Debian 6.1.192-2
"""


def result(console: str, *, timed_out: bool = False, stopped: bool = False) -> QemuResult:
    return QemuResult(console=console, returncode=0, timed_out=timed_out, stopped=stopped, seconds=9.5, accel="tcg")


def report(console: str, *, timed_out: bool = False, stopped: bool = False) -> BootReport:
    ended = result(console, timed_out=timed_out, stopped=stopped)
    return BootReport(timeline=parse_console(console), result=ended)


def times(timeline: Timeline) -> list[tuple[str, str, float | None]]:
    return [(event.kind.value, event.name, event.seconds) for event in timeline.events]


def test_each_step_has_the_time_that_the_kernel_printed() -> None:
    assert times(parse_console(GOOD)) == [
        ("kernel", "", 0.0),
        ("init", "", 1.780335),
        ("triggered", "critical", 1.782116),
        ("loaded", "critical", 1.912212),
        ("root", "", 1.913927),
        ("userspace", "", 1.915533),
        ("triggered", "usb", 1.916393),
        ("loaded", "usb", 1.951873),
    ]


def test_loads_belong_to_the_stage_that_was_triggered_last() -> None:
    timeline = parse_console(GOOD)
    assert [(load.stage, load.name, load.microseconds, load.ok, load.failed) for load in timeline.loads] == [
        ("critical", "megamod_critical", 129923, 21, 1),
        ("usb", "megamod_usb", 28495, 11, 0),
        ("usb", "kvm", 505, 1, 0),
    ]
    assert timeline.load_seconds("usb") == pytest.approx(0.029)
    assert timeline.stages_done() == {"critical", "usb"}


def test_a_failed_member_is_a_failure_and_a_remark_of_the_kernel_is_none() -> None:
    assert parse_console(GOOD).failures == (Failure(seconds=1.912131, text="member crc32c_intel failed: -ENODEV"),)


def test_a_log_printed_again_by_the_guest_counts_once() -> None:
    assert parse_console(GOOD + GOOD) == parse_console(GOOD)


def test_a_line_that_a_program_has_begun_hides_nothing() -> None:
    console = GOOD.replace("[    1.913927]", "waiting for the disk... [    1.913927]")
    assert parse_console(console) == parse_console(GOOD)


def test_the_caller_that_some_kernels_print_is_skipped() -> None:
    console = GOOD.replace("] megamod: ", "][    T1] megamod: ").replace("] Run", "][    T1] Run")
    assert times(parse_console(console)) == times(parse_console(GOOD))


def test_without_printk_times_the_steps_are_there_and_their_times_are_not() -> None:
    timeline = parse_console("megamod: stage critical triggered by now\nmegamod: exec /sbin/init\n")
    assert times(timeline) == [("kernel", "", 0.0), ("triggered", "critical", None), ("userspace", "", None)]
    assert timeline.user_space
    assert "-" in report("megamod: exec /sbin/init\n").as_table()


def test_what_programs_print_about_modules_is_no_failure() -> None:
    assert not parse_console("modprobe: Unknown symbol in module\ncat: WARNING: nothing\n").failures


def test_exec_of_a_program_that_the_kernel_refuses_is_not_user_space() -> None:
    console = GOOD.partition("demo:")[0] + "[    1.916000] megamod: error: /sbin/init cannot be executed: ENOEXEC\n"
    timeline = parse_console(console)
    assert not timeline.user_space
    assert timeline.first(EventKind.USERSPACE) is None


def test_the_second_choice_for_init_is_user_space() -> None:
    console = (
        "[    1.915533] megamod: exec /sbin/init\n"
        "[    1.916000] megamod: error: /sbin/init cannot be executed: ENOEXEC\n"
        "[    1.917000] megamod: exec /bin/sh\n"
    )
    timeline = parse_console(console)
    assert timeline.user_space
    assert times(timeline)[1:] == [("userspace", "", 1.917)]


@pytest.mark.parametrize(
    "line",
    [
        "Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)",
        "BUG: kernel NULL pointer dereference, address: 0000000000000010",
        "Oops: 0002 [#1] PREEMPT SMP NOPTI",
        "WARNING: CPU: 0 PID: 1 at kernel/module/main.c:1123 find_symbol+0x10/0x20",
        "megamod_b: exports duplicate symbol crc32c (owned by libcrc32c)",
        "btrfs: Unknown symbol crc32c (err -2)",
        "ext4: disagrees about version of symbol module_layout",
        "Error: Driver 'xhci_hcd' is already registered, aborting...",
        "sysfs: cannot create duplicate filename '/bus/usb'",
        "watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [init:1]",
        "INFO: task init:1 blocked for more than 120 seconds.",
    ],
)
def test_what_the_kernel_says_of_something_wrong_is_a_failure(line: str) -> None:
    assert parse_console(f"[    3.000001] {line}\n").failures == (Failure(seconds=3.000001, text=line),)


@pytest.mark.parametrize(
    "line",
    [
        "load megamod_usb failed: ENOEXEC (the kernel refuses the file, its reason is the line above)",
        "member btrfs failed: -ENOENT",
        "member btrfs skipped: needs libcrc32c",
        "error: no root= on the kernel command line",
    ],
)
def test_what_the_loader_says_of_something_wrong_is_a_failure(line: str) -> None:
    assert parse_console(f"[    3.000001] megamod: {line}\n").failures == (Failure(seconds=3.000001, text=line),)


def test_a_member_skipped_by_request_is_no_failure() -> None:
    assert not parse_console("[    3.000001] megamod: member btrfs skipped: asked for\n").failures


def test_an_empty_console_is_a_boot_that_reached_nothing() -> None:
    timeline = parse_console("")
    assert times(timeline) == [("kernel", "", 0.0)]
    assert not timeline.user_space


@pytest.mark.parametrize(
    "junk", ["\x00\xff[", "[    1.5] x", "[ 99999999.000001] megamod: stage", "megamod: load x took"]
)
def test_damaged_lines_are_read_past(junk: str) -> None:
    assert times(parse_console(f"{junk}\n{GOOD}{junk}")) == times(parse_console(GOOD))


def test_the_table_has_a_line_for_each_step_and_then_the_failures() -> None:
    lines = report(GOOD).as_table().splitlines()
    assert lines[0].split() == ["time", "after", "what"]
    assert "1.780335  +1.78 s  init started: /init" in lines
    assert "1.913927  +1.7 ms  root mounted: /dev/vda ext4" in lines
    assert "1.951873   +35 ms  stage usb: 12 modules in 2 calls, 29 ms in the calls" in lines
    assert lines[lines.index("failures (1):") + 1] == (
        "  1.912131  member crc32c_intel failed: -ENODEV (its hardware is not there)"
    )
    assert lines[-1] == "the guest has ended, under TCG in 9.5 s of this machine's time"


def test_the_table_is_plain_text_for_any_terminal() -> None:
    assert "\x1b" not in report(GOOD).as_table()


def test_many_failures_are_counted_and_twenty_of_them_shown() -> None:
    console = "".join(f"[    3.{number:06}] BUG: number {number}\n" for number in range(50))
    text = report(console).as_table()
    assert "failures (50):" in text
    assert "number 19\n  … and 30 more" in text


def test_a_boot_that_panics_has_status_1_and_shows_the_end_of_the_console() -> None:
    ended = report(PANIC)
    assert ended.exit_status == 1
    assert "user space was not reached" in ended.as_table()
    assert "    1.785300] CPU: 0 PID: 1 Comm: init" in ended.as_table().splitlines()[-1]
    assert "error: /megamod/plan:3: unknown record oops" in ended.as_table()


def test_a_boot_that_times_out_has_status_1_even_in_user_space() -> None:
    ended = report(GOOD, timed_out=True)
    assert ended.timeline.user_space
    assert ended.exit_status == 1
    assert "ended by the timeout" in ended.as_table()


def test_a_guest_that_stays_up_after_the_last_stage_is_good() -> None:
    assert report(GOOD, stopped=True).exit_status == 0


def test_json_has_the_events_the_loads_the_failures_and_the_end() -> None:
    value = json.loads(report(GOOD).as_json())
    assert value["version"] == 1
    assert value["user_space"] is True
    assert value["ok"] is True
    assert {"event": "root", "seconds": 1.913927, "name": "", "detail": "/dev/vda ext4"} in value["events"]
    assert value["loads"][0]["microseconds"] == 129923
    assert value["failures"] == [{"seconds": 1.912131, "text": "member crc32c_intel failed: -ENODEV"}]
    assert "console_tail" not in value


def test_json_of_a_failed_boot_has_the_end_of_the_console() -> None:
    value = json.loads(report(PANIC).as_json())
    assert value["ok"] is False
    assert value["console_tail"].startswith("[    1.780335] Run /init as init process")
