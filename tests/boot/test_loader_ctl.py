"""megamod-ctl and what it reads: results for programs and for people, lsmod, triggering by hand, a keeper that died."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.boot.loader_images import (
    LABEL,
    POWER_OFF,
    UUID,
    Plan,
    after,
    section,
    shell_files,
    show,
    start_plan,
    write_loader_image,
)

CTL = "/run/megamod/ctl"
KEEPER = "$(grep -l '^megamod-keeper$' /proc/[0-9]*/comm | cut -d/ -f3)"
WAIT_JSON = "until [ -s /run/megamod/status.json ]; do sleep 0.1; done\n"
MAX_RESIDENT_KIB = 200


@pytest.fixture
def modules(kernels) -> Path:
    return kernels("bookworm").modules


@pytest.fixture
def run(kernels, boot, make_root, make_disk_image, tmp_path):
    """``run(plan, "echo hello")``: boot with a root disk; returns the console."""

    def run(plan: Plan, init: str = "true", *, append: str = "", files=None) -> str:
        disk = make_disk_image(make_root(init + POWER_OFF), label=LABEL, uuid=UUID)
        image = write_loader_image(tmp_path / "image", plan, files=files)
        append = f"root=/dev/vda {append}"
        return boot(image=image, vmlinuz=kernels("bookworm").vmlinuz, disks=[disk], append=append).console

    return run


def test_status_json_has_each_members_result_time_and_what_it_waited_for(run, modules):
    plan = start_plan(modules)
    plan.merged("megamod_mixed", "soundcore", "snd", "dummy", "applesmc", "loop")
    plan.stage("late", "manual").merged("megamod_late", "snd_timer", "crc_itu_t")
    plan.single("snd_hwdep")
    plan.stage("never", "path", "/nowhere").singles("tun")
    init = (
        f"sleep 1; {CTL} trigger late; sleep 1;" + show("json", f"{CTL} status --json") + show("text", f"{CTL} status")
    )
    console = run(plan, init, append="megamod.skip=snd")
    found = json.loads(section(console, "json"))
    assert (found["version"], found["kernel"], found["off"]) == (1, modules.name, False)
    critical, late, never = found["stages"]
    assert (critical["name"], critical["state"], critical["trigger"], critical["fallback"]) == (
        *("critical", "done", "now", False),
    )
    assert (late["state"], late["trigger"], late["triggered"]) == ("done", "manual", "manual")
    assert (never["state"], never["trigger"], never["triggered"], never["errno"]) == ("waiting", "path", None, 0)
    assert (critical["ok"], critical["failed"], critical["skipped"]) == (14, 1, 1)
    mixed = critical["loads"][-1]
    assert (mixed["name"], mixed["kind"], mixed["loaded"], mixed["errno"]) == ("megamod_mixed", "merged", "own", 0)
    members = {member["name"]: member for member in mixed["members"]}
    assert (members["loop"]["state"], members["loop"]["result"]) == ("ok", 0)
    assert members["loop"]["nanoseconds"] > 0
    assert sum(member["nanoseconds"] for member in members.values()) < mixed["nanoseconds"]
    assert (members["applesmc"]["state"], members["applesmc"]["result"]) == ("failed", -19)
    assert (members["snd"]["state"], members["snd"]["because"], members["snd"]["result"]) == ("skipped", "asked", None)
    timer = late["loads"][0]["members"][0]
    assert (timer["name"], timer["because"], timer["needs"]) == ("snd_timer", "needs", "snd")
    [hwdep] = late["loads"][1]["members"]
    assert (late["loads"][1]["kind"], hwdep["state"], hwdep["needs"]) == ("single", "skipped", "snd")
    virtio = critical["loads"][0]
    assert virtio["nanoseconds"] == virtio["members"][0]["nanoseconds"] > 0
    assert never["loads"][0]["loaded"] == "none" and never["loads"][0]["members"][0]["state"] == "waiting"
    text = section(console, "text").splitlines()
    assert text[0].split()[:3] == ["STAGE", "STATE", "ERRNO"]
    assert [line.split()[:3] for line in text[1:4]] == [
        *(["critical", "done", "0"], ["late", "done", "0"], ["never", "waiting", "0"]),
    ]
    assert text[4] == "keeper: runs"


def test_lsmod_lists_members_like_modules_and_all_others_as_lsmod_does(run, modules):
    plan = start_plan(modules)
    plan.merged("megamod_sound", "soundcore", "snd", "snd_timer", "loop", "applesmc")
    plan.single("snd_hwdep")
    init = show("ctl", f"{CTL} lsmod") + show("kernel", "lsmod")
    console = run(plan, init)
    own = {line.split()[0]: line for line in section(console, "ctl").splitlines()}
    stock = {line.split()[0]: line for line in section(console, "kernel").splitlines()}
    assert own["Module"] == "Module                  Size  Used by"
    assert own.keys() == (stock.keys() - {"megamod_sound"}) | {"soundcore", "snd", "snd_timer", "loop"}
    assert own["soundcore"] == "soundcore                  0  3 snd,snd_timer,snd_hwdep"
    assert own["snd"].split()[2:] == ["2", "snd_timer,snd_hwdep"]
    assert own["loop"].split() == ["loop", "0", "0"]
    assert own["jbd2"].split() == stock["jbd2"].split()


def test_trigger_loads_a_stage_and_says_what_is_wrong_otherwise(run, modules):
    plan = start_plan(modules).stage("hand", "manual").singles("dummy")
    init = f"""
    {CTL} trigger nothing; echo "nothing: $?"
    {CTL} trigger hand; echo "hand: $?"; sleep 1
    {CTL} trigger hand; echo "again: $?"
    {CTL} triger; echo "usage: $?"
    """
    console = run(plan, init)
    rest = after(console, "megamod: error: no deferred stage is called nothing", "nothing: 1", "hand: 0")
    usage = "usage: megamod-ctl [--at FOLDER] status [--json] | lsmod | trigger STAGE | take-over"
    after(rest, "again: 0", usage, "usage: 2")
    assert "stage hand triggered by manual" in console


def test_another_keeper_takes_over_when_the_first_was_killed(run, modules):
    plan = start_plan(modules)
    plan.stage("first", "userspace").singles("dummy")
    plan.stage("second", "path", "/run/go").merged("megamod_second", "soundcore", "snd")
    plan.stage("third", "manual").singles("loop")
    init = f"""
    sleep 1; {CTL} take-over; echo "too early: $?"
    kill -9 {KEEPER}; sleep 0.3; echo killed
    {CTL} trigger third; echo "nobody: $?"; {CTL} status | grep keeper
    {CTL} take-over; echo "taken: $?"; sleep 0.3; {CTL} status
    touch /run/go; sleep 1; {CTL} trigger third; sleep 1; {CTL} status
    {CTL} take-over; echo "nothing left: $?"; ls /run/megamod/image
    """
    console = run(plan, init)
    rest = after(console, "megamod: error: a keeper is already running", "too early: 1", "killed")
    rest = after(rest, "error: no keeper is running: `megamod-ctl take-over` starts one", "nobody: 1", "keeper: none")
    rest = after(rest, "taken: 0", "first done 0", "second waiting 0", "third waiting 0", "keeper: runs")
    rest = after(
        rest, "stage second triggered by path", "stage third triggered by manual", "second done 0", "third done 0"
    )
    rest = after(rest, "keeper: none", "nothing left: 0")
    assert ".ko" not in rest and rest.count("stage first triggered") == 0


def test_killed_keeper_of_a_foreign_initramfs_is_named_as_lost(
    kernels, boot, make_root, make_disk_image, modules, tmp_path
):
    plan = start_plan(modules, root="chain /bin/generator").stage("late", "manual").singles("dummy")
    script = """
    b=/bin/busybox
    $b mount -t devtmpfs dev /dev && $b mount -t proc proc /proc && $b mount -t sysfs sys /sys
    $b mount -t ext4 /dev/vda /root
    for m in dev proc sys run; do $b mount --move /$m /root/$m; done
    exec $b switch_root /root /sbin/init
    """
    disk = make_disk_image(make_root(f"kill -9 {KEEPER}; sleep 0.3; {CTL} take-over; echo taken: $?" + POWER_OFF))
    image = write_loader_image(tmp_path / "image", plan, files=shell_files(script, path="bin/generator"))
    console = boot(image=image, vmlinuz=kernels("bookworm").vmlinuz, disks=[disk]).console
    after(console, "error: stage late cannot be loaded by another keeper: /megamod/dummy.ko: ENOENT", "taken: 1")


def test_keeper_stays_under_200_kib_and_runs_where_run_is_noexec(run, modules):
    """A plan of 200 more modules than are loaded, with parameters, as a desktop's is."""
    plan = start_plan(modules)
    plan.merged("megamod_mixed", "soundcore", "snd", "loop", "dummy")
    plan.stage("hand", "manual").merged("megamod_hand", "snd_timer", "tun")
    plan.stage("path", "path", "/run/nowhere").singles("crc_itu_t")
    names = [line.split("/")[-1].split(".ko")[0] for line in (modules / "modules.order").read_text().split()][:200]
    plan.lines.extend(f"dependents {plan.ids['snd']} {name} {name}_more" for name in names)
    init = f"""
    sleep 1; {CTL} trigger hand; sleep 1
    mount -o remount,noexec /run; {CTL} status >/dev/null; echo "noexec: $?"
    """ + show("memory", f"cat /proc/{KEEPER}/status; cat /proc/{KEEPER}/smaps_rollup")
    console = run(plan, init)
    assert "noexec: 0" in console
    fields = dict(line.split(":", 1) for line in section(console, "memory").splitlines() if ":" in line)
    resident = int(fields["VmRSS"].split()[0])
    print(f"resident: {resident} KiB, of it private {fields['Private_Dirty'].strip()}")
    assert resident < MAX_RESIDENT_KIB


def test_hook_point_loads_the_critical_stage_and_nothing_twice(kernels, boot, modules, tmp_path):
    plan = start_plan(modules, root="chain /bin/generator", critical=["tun"], fallback="modules")
    plan.merged("megamod_critical", "soundcore", "snd", "loop", "dummy")
    script = """
    b=/bin/busybox
    $b mount -t devtmpfs dev /dev; $b mount -t proc proc /proc; $b mount -t sysfs sys /sys; $b mount -t tmpfs run /run
    for time in first second; do /megamod/ctl --hook; echo "$time: $?"; $b cat /run/megamod/status; done
    $b grep -c . /run/modprobe.d/megamod.conf; $b poweroff -f
    """
    files = shell_files(script, path="bin/generator")
    image = write_loader_image(tmp_path / "image", plan, files=files)
    console = boot(image=image, vmlinuz=kernels("bookworm").vmlinuz, append="rdinit=/bin/generator").console
    rest = after(console, "load megamod_critical took", "4 ok, 0 failed", "first: 0\n", "critical done 0 ")
    assert re.match(r"\d+ 5 0 0 merged\n", rest)
    assert re.search(r"second: 0\ncritical done 0 \d+ 5 0 0 merged\n", rest) and "load " not in rest
