"""What tracers can do with members, with ``tracing: off`` and with ``keep``: the table in its README."""

from __future__ import annotations

import io
import re
import sys

import pytest

from megamod.boot.debian import Kernel
from tests.boot.debug_kernels import cloud, debug_image, megamod  # noqa: F401
from tests.boot.image_fixtures import Guest, MadeOnce, add_program, make_data_disk, run

# An offset behind the five bytes of the call of __fentry__, or of the NOP in its place, begins an instruction.
SCRIPT = """
T=/sys/kernel/tracing
mount -t tracefs tracefs $T
mkdir -p /mnt
show filter grep -c '^xfs_.*\\[megamod_critical\\]' $T/available_filter_functions
show events ls $T/events/xfs
show kprobe sh -c "echo 'p:members/mount xfs_mountfs' > $T/kprobe_events"
show kretprobe sh -c "echo 'r:members/mounted megamod_critical:xfs_mountfs ret=\\$retval' >> $T/kprobe_events"
show inside sh -c "echo 'p:members/inside xfs_mountfs+5' >> $T/kprobe_events"
show enable sh -c "echo 1 > $T/events/members/enable"
echo 1 > $T/options/sym-offset
echo 1 > $T/options/stacktrace
show function sh -c "echo xfs_log_mount > $T/set_ftrace_filter && echo function > $T/current_tracer"
show event sh -c "echo 1 > $T/events/xfs/xfs_buf_read/enable"
# An event of the kernel itself, whose stack goes through the member.
show kernel sh -c "echo 1 > $T/events/block/block_bio_queue/enable"
mount -t xfs /dev/vda /mnt
echo 0 > $T/tracing_on
show trace cat $T/trace
show hits cat $T/kprobe_profile
C=/proc/dynamic_debug/control
show stock sh -c "echo 'module btrfs +p' > $C; grep -c 'btrfs.* =p' $C"
show merged sh -c "echo 'file fs/btrfs/* +p' > $C; grep -c 'btrfs.* =p' $C"
show btf ls /sys/kernel/btf
show kallsyms grep -c 'xfs_.*\\[megamod_critical\\]' /proc/kallsyms
show log dmesg
poweroff -f
"""


@pytest.fixture(params=["off", "keep"])
def tracing(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def guest(made_once: MadeOnce, cloud: Kernel, tracing: str) -> Guest:  # noqa: F811
    image, _ = debug_image(made_once, cloud, tracing=tracing)
    program = add_program(made_once, image, SCRIPT)
    return run(made_once, cloud, program, disks=[make_data_disk(made_once, "xfs")], append="root=none")


def test_functions_and_events_of_members_are_there_if_they_were_kept(guest: Guest, tracing: str) -> None:
    kept = tracing == "keep"
    assert (int(guest.section("filter")[0]) > 1000) == kept
    assert (guest.status("events") == 0) == kept
    assert (guest.status("function") == 0) == kept
    assert (guest.status("event") == 0) == kept
    trace = "\n".join(guest.section("trace"))
    assert ("xfs_log_mount+0x0/" in trace) == kept
    assert (": xfs_buf_read: " in trace) == kept


def test_kprobe_events_exist_only_for_functions_that_ftrace_knows(guest: Guest, tracing: str) -> None:
    # kernel/trace/trace_kprobe.c within_notrace_func() (6.1), without CONFIG_KPROBE_EVENTS_ON_NOTRACE.
    for name in ("kprobe", "kretprobe", "inside", "enable"):
        assert (guest.status(name) == 0) == (tracing == "keep"), name
    hits = {line.split()[0]: int(line.split()[1]) for line in guest.section("hits")}
    assert hits == ({"mount": 1, "mounted": 1, "inside": 1} if tracing == "keep" else {})


def test_the_stack_of_the_kernels_own_events_is_symbolized_through_members(
    guest: Guest,
    tracing: str,
    made_once: MadeOnce,
    cloud: Kernel,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, link_map = debug_image(made_once, cloud, tracing=tracing)
    text = "\n".join(guest.section("trace"))
    assert re.search(r"^ => xfs_mountfs\+\S+ \[megamod_critical\]$", text, re.MULTILINE)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    capsys.readouterr()
    megamod("symbolize", "--map", link_map)
    shown = capsys.readouterr().out
    assert re.search(r"^ => xfs_mountfs\+\S+ \[xfs\]$", shown, re.MULTILINE)
    assert "megamod_critical" not in shown


def test_dynamic_debug_goes_by_file_because_the_module_is_the_megamodule(guest: Guest) -> None:
    assert guest.section("stock") == ["0"]
    assert int(guest.section("merged")[0]) > 100


def test_members_have_no_btf_and_their_functions_are_in_kallsyms(guest: Guest) -> None:
    assert guest.section("btf") == ["vmlinux"]
    assert int(guest.section("kallsyms")[0]) > 1000
