"""Stack traces through merged code: exact with whole and with compacted unwind tables, and with the members' names.

A disk that never answers (scsi_debug) blocks a deferred stage's call inside a member's init, below the glue; what its
process shows in /proc/PID/stack is compared with that of the stock modules.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import pytest

from tests.boot.image_fixtures import Guest, make_image, make_root, make_stock_image, run

SUITES = ("bullseye", "bookworm", "bookworm-backports", "sid")

PROFILE = """
name: traces
critical: {{modules: ["?virtio_pci", virtio_blk, ext4, scsi_mod]}}
deferred: [{{name: disk, modules: [scsi_debug], after: manual}}]
unwind: {unwind}
compress: none
compress-deferred: none
"""

# The first command of the scan is never answered, and the scan is made by the init itself.
BLOCK = "scsi_mod.scan=sync scsi_debug.opts=4 scsi_debug.every_nth=1"

INIT = """
show journal sh -c 'cat /proc/$(pidof jbd2/vda-8)/stack'
echo disk > /run/megamod/control
tries=0
until grep -qs blk_execute_rq /proc/$(pidof megamod-load)/stack || [ $tries = 200 ]; do
    tries=$((tries + 1)); sleep 0.1
done
sleep 0.5
show stack sh -c 'cat /proc/$(pidof megamod-load)/stack'
echo w > /proc/sysrq-trigger
show log dmesg
# The init does not end, so the machine is stopped without it.
echo b > /proc/sysrq-trigger
sleep 60
"""

# "[<0>] kjournald2+0x265/0x280 [jbd2]"; after the last function of a section its size depends on what comes next.
_FRAME = re.compile(r"(?:\[<0>\] )?\s*(?P<place>[\w.]+\+0x[0-9a-f]+)/0x[0-9a-f]+(?: \[(?P<module>\w+)\])?")

Frame = tuple[str, str | None]

# The members that the trace goes through, and where they have gone. The glue is one frame more.
HOMES = {"jbd2": "megamod_critical", "scsi_mod": "megamod_critical", "scsi_debug": "megamod_disk"}
GLUE = re.compile(r"megamod_init\+0x[0-9a-f]+")


def frames(lines: Iterable[str]) -> list[Frame]:
    """Function with offset, and module, of each line of a trace; what the kernel marks as a guess is left out."""
    return [(match["place"], match["module"]) for line in lines if (match := _FRAME.fullmatch(line))]


def blocked_trace(guest: Guest) -> list[Frame]:
    """What the kernel printed of the blocked process, by sysrq."""
    log = guest.log()
    start = next(at for at, line in enumerate(log) if line.startswith("task:megamod-load"))
    # 5.10 has no word for the trace's end; the registers of user space follow it.
    ends = (at for at in range(start, len(log)) if log[at] == " </TASK>" or log[at].startswith("RIP: "))
    return frames(log[start : next(ends)])


def without_glue(trace: list[Frame]) -> list[Frame]:
    return [frame for frame in trace if not GLUE.fullmatch(frame[0])]


def merged_names(trace: list[Frame]) -> list[Frame]:
    """A trace through stock modules, with the names that these modules' megamodules have."""
    return [(place, HOMES[module] if module else None) for place, module in trace]


def boot(made_once, kernel, image) -> Guest:
    return run(made_once, kernel, image, disks=[make_root(made_once, INIT)], append=f"rw {BLOCK}")


@pytest.fixture(params=SUITES)
def kernel(request, kernels):
    return kernels(request.param)


@pytest.fixture
def stock(made_once, kernel) -> Guest:
    return boot(made_once, kernel, make_stock_image(made_once, kernel, PROFILE.format(unwind="keep")))


@pytest.fixture(params=["keep", "compact"])
def merged(request, made_once, kernel) -> Guest:
    return boot(made_once, kernel, make_image(made_once, kernel, PROFILE.format(unwind=request.param)))


def test_a_trace_through_members_has_the_frames_of_the_stock_modules(merged, stock):
    trace = frames(merged.section("stack"))
    assert without_glue(trace) == merged_names(frames(stock.section("stack")))
    assert {module for _, module in trace} == {"megamod_critical", "megamod_disk", None}


def test_the_glue_is_one_frame_between_a_members_init_and_the_kernel(merged):
    trace = frames(merged.section("stack"))
    at = next(at for at, (place, _) in enumerate(trace) if GLUE.fullmatch(place))
    assert trace[at][1] == "megamod_disk"
    assert trace[at - 1][0].startswith("scsi_debug_init+")
    assert trace[at + 1][0].startswith("do_one_initcall+")


def test_a_trace_that_the_kernel_prints_marks_the_same_frames_as_reliable(merged, stock):
    trace = blocked_trace(merged)
    assert len(trace) > 20
    assert without_glue(trace) == merged_names(blocked_trace(stock))


def test_a_kernel_thread_of_a_member_has_the_trace_of_the_stock_module(merged, stock):
    trace = frames(merged.section("journal"))
    assert trace == merged_names(frames(stock.section("journal")))
    assert trace[0][0].startswith("kjournald2+")
