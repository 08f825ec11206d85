"""Inits that oops, hang, leave or return odd values, each beside the same module loaded by insmod: never worse.

Every fault has a megamodule of its own, with a second member that comes after it, so one boot shows them all.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from pathlib import Path

import pytest

from megamod.boot.qemu import run_qemu
from megamod.image.archive import write_image
from megamod.image.cpio import Entry
from tests.boot.faulty_modules import FAULTS, build_faulty_modules, faulty_tree
from tests.boot.loader_images import POWER_OFF, Plan, after, section, show, start_plan, write_loader_image
from tests.boot.test_loader_faults import DISK, FILES
from tests.unit.test_levels_header import headers  # noqa: F401

# The loop comes last: it holds a processor for good. Full preemption lets RCU go on nevertheless.
ORDER = (*(fault for fault in FAULTS if fault != "loop"), "loop")
APPEND = "root=/dev/vda preempt=full"
# Stock modules that need no other: one goes before each fault, and has the versions of what the glue imports.
STOCK = ("brd", "crc7", "crc8", "crc_itu_t", "macvlan", "loop", "tun", "ifb", "nlmon", "veth")
BEFORE = dict(zip(FAULTS, STOCK, strict=True))
# While a call may still come back, those after the one that hangs cannot go in by themselves.
UNSAFE = ()
WATCHDOG = "watchdog 12"  # longer than the init that sleeps
LOST = {"oops", "bug", "exit", "hang", "loop"}
ERRNOS = {"oops": -14, "bug": -14, "exit": -125, "hang": -110, "loop": -110, "wait": -4, "negative": -5000}
STATE = (
    show("json", "cat /run/megamod/status.json")
    + show("modprobe", "cat /proc/sys/kernel/modprobe; ls /run/megamod")
    + show("mask", "cat /run/modprobe.d/megamod.conf")
)
WAIT = "until grep -q '^last done' /run/megamod/status; do sleep 0.2; done\n"

WAIT_JSON = "until [ -s /run/megamod/status.json ]; do sleep 0.2; done\n"


@pytest.fixture(scope="session")
def faulty(headers: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:  # noqa: F811
    return build_faulty_modules(headers, tmp_path_factory.mktemp("faulty"))


@pytest.fixture
def tree(kernels, faulty, tmp_path) -> Path:
    return faulty_tree(kernels("bookworm").modules, faulty, tmp_path)


@pytest.fixture
def run(kernels, boot, make_root, make_disk_image, tmp_path) -> Callable[..., str]:
    """``run(plan, "echo hello")``: boot with a root disk; returns the console."""

    def run(plan: Plan, init: str, *, append: str = "") -> str:
        disk = make_disk_image(make_root(init + POWER_OFF))
        image = write_loader_image(tmp_path / "image", plan)
        vmlinuz = kernels("bookworm").vmlinuz
        append = f"{APPEND} {append}"
        return boot(image=image, vmlinuz=vmlinuz, disks=[disk], append=append, cpus=2, timeout=400).console

    return run


@pytest.fixture(scope="module")
def stock(kernels, faulty, busybox, tool, tmp_path_factory) -> dict[str, bool]:
    """Module → does it come up when insmod loads it, in the order of the boots here."""
    tool("qemu-system-x86_64", package="qemu-system-x86")
    # 12 s: longer than the one that sleeps.
    wait = "wait_for() { i=0; while kill -0 $1 2>/dev/null && [ $i -lt 60 ]; do i=$((i+1)); sleep 0.2; done; }"
    names = [f"{kind}_{fault}" for fault in ORDER for kind in ("faulty", "after")]
    script = "\n".join(
        [
            *(
                "#!/bin/busybox sh",
                "/bin/busybox --install -s /bin",
                "mount -t proc p /proc; mount -t devtmpfs d /dev",
                wait,
            ),
            *(f"insmod /{name}.ko & wait_for $!" for name in names),
            show("live", "grep Live /proc/modules | cut -d' ' -f1"),
            POWER_OFF,
        ]
    )
    image = tmp_path_factory.mktemp("stock") / "image"
    entries = [
        *(Entry(path=name, mode=0o40755) for name in ("bin", "dev", "proc")),
        Entry(path="bin/busybox", mode=0o100755, data=busybox.read_bytes()),
        Entry(path="init", mode=0o100755, data=script.encode()),
        *(Entry(path=f"{name}.ko", mode=0o100644, data=faulty[name].read_bytes()) for name in names),
    ]
    write_image(image, entries, method="none")
    console = run_qemu(
        image=image, vmlinuz=kernels("bookworm").vmlinuz, append=APPEND, cpus=2, timeout=300, accel="tcg"
    ).console
    live = section(console, "live").split()
    return {name: name in live for name in names}


def states(console: str) -> dict[str, dict[str, object]]:
    """Member → what status.json says of it."""
    found = json.loads(section(console, "json"))
    assert all(stage["state"] in ("done", "failed", "waiting") for stage in found["stages"])
    return {m["name"]: m for stage in found["stages"] for load in stage["loads"] for m in load["members"]}


def check(console: str, stock: dict[str, bool], *, worse: Collection[str] = (), wait: int = -4) -> None:
    """What insmod brings up has come up here too; of the others the status knows why."""
    members = states(console)
    lines = section(console, "modprobe").split()
    assert lines[0] == "/sbin/modprobe" and "modprobe" not in lines[1:]
    mask = section(console, "mask")
    assert [name for name in STOCK if name in members and members[name]["state"] != "ok"] == []
    for name, comes_up in stock.items():
        state = members[name]["state"]
        fault = name.partition("_")[2]
        if comes_up and name not in worse:
            assert state == "ok", f"{name}: {members[name]}"
        if name.startswith("faulty_") and fault in ERRNOS:
            assert (state, members[name]["result"]) == ("failed", wait if fault == "wait" else ERRNOS[fault])
        assert f"install {name} /bin/{'true' if state == 'ok' else 'false'}\n" in mask


def faulty_loads(plan: Plan, *, stages: bool = False) -> Plan:
    for fault in ORDER:
        if stages:
            plan.stage(fault, "userspace")
        plan.merged(f"megamod_{fault}", BEFORE[fault], f"faulty_{fault}", f"after_{fault}")
        if stages:
            plan.lines.append("requests -")
    return plan


def test_insmod_does_what_these_tests_suppose(stock):
    assert {name for name, up in stock.items() if not up} == {
        f"faulty_{fault}" for fault in (*LOST, "wait", "negative")
    }


def test_faulty_members_of_the_critical_stage_cost_no_more_than_one_by_one(run, tree, stock):
    plan = start_plan(tree, critical=(), fallback="modules", head=[WATCHDOG])
    plan.merged("megamod_critical", *DISK, *FILES)
    console = run(faulty_loads(plan), WAIT_JSON + STATE)
    rest = after(console, "megamod: the kernel oopsed in the init of faulty_oops", "member faulty_oops failed: -EFAULT")
    after(rest, "root /dev/vda ext4 mounted", "exec /sbin/init")
    check(console, stock, worse=UNSAFE)


def test_faulty_members_of_deferred_stages_cost_no_more_than_one_by_one(run, tree, stock):
    plan = start_plan(tree, critical=(), fallback="modules", head=[WATCHDOG])
    plan.merged("megamod_critical", *DISK, *FILES)
    faulty_loads(plan, stages=True).stage("last", "userspace").single("dummy")
    check(run(plan, WAIT + STATE), stock, worse=UNSAFE)


def test_faulty_singles_cost_no_more_than_one_by_one(run, tree, stock):
    plan = start_plan(tree, critical=(), head=[WATCHDOG])
    plan.merged("megamod_critical", *DISK, *FILES)
    for fault in ORDER:
        plan.single(f"faulty_{fault}").single(f"after_{fault}")
    # The child was killed in the call, and took its answer along.
    check(run(plan, WAIT_JSON + STATE), stock, wait=-110)


CTL = "/run/megamod/ctl"
NAMES = "grep -l '^{}$' /proc/[0-9]*/comm | cut -d/ -f3"
KEEPER, CHILD = NAMES.format("megamod-keeper"), NAMES.format("megamod-load")
LOOK = 'cat /proc/sys/kernel/modprobe; cut -d" " -f1,2 /run/megamod/status; '
LOOK += f'echo "keeper $({KEEPER}) child $({CHILD}) end"'


def slow_stage(tree: Path) -> Plan:
    """A stage whose second member takes 10 s, during which request_module() is off, and one that is loaded by hand."""
    plan = start_plan(tree, critical=(), head=[WATCHDOG]).merged("megamod_critical", *DISK, *FILES)
    plan.stage("slow", "manual").merged("megamod_slow", "tun", "faulty_sleep", "after_sleep")
    plan.lines.append("requests -")
    return plan.stage("hand", "manual").single("dummy")


def test_keeper_that_is_killed_during_a_call_leaves_nothing_half_done(run, tree):
    """Its child brings the stage to its end: modprobe's path, mask, status, and no process is left."""
    script = f"""
    {CTL} trigger slow; until [ -n "$({CHILD})" ] && [ -d /sys/module/megamod_slow ]; do sleep 0.1; done
    kill -9 $({KEEPER}); sleep 1
    {show("killed", LOOK)}
    until grep -q '^slow done' /run/megamod/status; do sleep 0.5; done; sleep 1
    {show("later", LOOK + "; cat /run/modprobe.d/megamod.conf; ls /run/megamod")}
    {CTL} take-over; {CTL} trigger hand; until grep -q '^hand done' /run/megamod/status; do sleep 0.2; done
    """
    console = run(slow_stage(tree), script)
    killed, later = section(console, "killed").split("\n", 1), section(console, "later").split("\n", 1)
    assert killed[0].strip() == "" and "slow loading" in killed[1]
    assert later[0] == "/sbin/modprobe" and "slow done" in later[1] and "keeper  child  end" in later[1]
    assert "install after_sleep /bin/true\n" in later[1] and "modprobe\n" not in later[1].split("end\n")[1].split("\n")
    assert "member after_sleep failed" not in console and "stage hand done" in console


def test_take_over_mends_what_a_keeper_and_its_child_left_that_were_killed_together(run, tree):
    script = f"""
    {CTL} trigger slow; until [ -n "$({CHILD})" ] && [ -d /sys/module/megamod_slow ]; do sleep 0.1; done
    kill -9 $({KEEPER}) $({CHILD}); sleep 12
    {show("killed", LOOK + "; ls /run/megamod/modprobe")}
    {CTL} take-over; until grep -q '^slow done' /run/megamod/status; do sleep 0.5; done
    {show("mended", LOOK + "; ls /run/megamod/modprobe")}
    """
    console = run(slow_stage(tree), script)
    killed, mended = section(console, "killed").split("\n", 1), section(console, "mended").split("\n", 1)
    assert killed[0].strip() == "" and "slow loading" in killed[1] and "keeper  child  end\n/run" in killed[1]
    assert mended[0] == "/sbin/modprobe" and "slow done" in mended[1] and "No such file" in mended[1]
    assert "3 ok, 0 failed, 0 skipped" in console
