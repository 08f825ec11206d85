"""Deferred stages: each trigger, the keeper's files, and what it does to the processes around it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.boot.loader_images import LABEL, POWER_OFF, UUID, Plan, after, shell_files, start_plan, write_loader_image


@pytest.fixture
def modules(kernels) -> Path:
    return kernels("bookworm").modules


@pytest.fixture
def run(kernels, boot, make_root, make_disk_image, tmp_path):
    """``run(plan, "echo hello")``: boot with a root disk; returns the console."""

    def run(plan: Plan, init: str, *, append: str = "", files=None) -> str:
        disk = make_disk_image(make_root(init + POWER_OFF), label=LABEL, uuid=UUID)
        image = write_loader_image(tmp_path / "image", plan, files=files)
        append = f"root=/dev/vda {append}"
        return boot(image=image, vmlinuz=kernels("bookworm").vmlinuz, disks=[disk], append=append).console

    return run


def test_each_stage_is_loaded_when_its_trigger_fires(run, modules):
    plan = start_plan(modules)
    plan.stage("first", "userspace").singles("dummy")
    plan.stage("second", "delay", "700").singles("crc_itu_t")
    plan.stage("third", "path", "/run/camera/first-frame").singles("soundcore")
    plan.stage("fourth", "manual").singles("loop")
    plan.stage("fifth", "path", "/run/camera/second-frame").singles("snd")
    init = """
    read line </run/megamod/status; echo "status: $line"
    mkdir /run/camera; sleep 1; grep third /run/megamod/status
    echo frame; touch /run/camera/first-frame; sleep 1; grep fourth /run/megamod/status
    echo by hand; echo nothing >/run/megamod/control; echo fourth >/run/megamod/control; sleep 1
    touch /run/camera/second-frame; sleep 1
    cat /run/megamod/status; ls -1 /run/megamod; cat /proc/[0-9]*/comm | grep -c keeper
    """
    console = run(plan, init)
    rest = after(console, "megamod: exec /sbin/init", "stage first triggered by userspace", "stage first done")
    rest = after(rest, "stage second triggered by delay", "third waiting 0 0 0 0 0", "frame")
    rest = after(rest, "stage third triggered by path", "fourth waiting 0 0 0 0 0", "by hand")
    rest = after(rest, "control: no stage is called nothing", "stage fourth triggered by manual", "stage fourth done")
    rest = after(rest, "stage fifth triggered by path", "stage fifth done", "critical done 0 ")
    assert [name for name in ("first", "second", "third", "fourth") if f"{name} done 0 " not in rest] == []
    after(rest, "fifth done 0 ", "ctl\nimage\nstatus\nstatus.json\n", "0\n")


def test_path_outside_run_is_seen_in_the_new_root_even_in_a_new_folder(run, modules):
    plan = start_plan(modules).stage("late", "path", "/var/lib/app/ready").singles("dummy")
    init = """
    mkdir -p /var; mount -t tmpfs tmp /var; mkdir /var/lib; sleep 0.5; mkdir /var/lib/app
    echo now; >/var/lib/app/ready; sleep 1; cat /run/megamod/status
    """
    console = run(plan, init, append="rw")
    after(console, "now\n", "stage late triggered by path", "late done 0 ")


def test_stage_is_loaded_by_its_timeout_when_its_trigger_does_not_come(run, modules):
    plan = start_plan(modules)
    plan.stage("never", "path", "/nowhere/at/all", timeout=500).singles("dummy")
    plan.stage("calm", "idle", "300", timeout=20000).singles("loop")
    console = run(plan, "sleep 3; cat /run/megamod/status")
    after(console, "megamod: exec", "stage never triggered by timeout", "never done 0 ")
    after(console, "megamod: exec", "stage calm triggered by idle", "calm done 0 ")


def test_stage_waits_for_an_earlier_stage_that_it_needs_and_for_no_other(run, modules):
    plan = start_plan(modules)
    plan.stage("core", "manual").singles("soundcore")
    plan.stage("other", "manual").singles("dummy")
    plan.stage("upper", "userspace").singles("snd")
    init = "sleep 1; cat /run/megamod/status; echo core >/run/megamod/control; sleep 1; cat /run/megamod/status"
    console = run(plan, init)
    rest = after(console, "core waiting", "other waiting", "upper waiting", "stage core triggered by manual")
    after(rest, "stage core done", "stage upper triggered by userspace", "core done", "other waiting", "upper done")


def test_keeper_has_a_name_that_systemd_spares_and_holds_no_terminal(run, modules):
    plan = start_plan(modules).stage("hand", "manual").singles("dummy")
    init = """
    for p in /proc/[0-9]*; do
      if [ "$(cat $p/comm)" = megamod-keeper ]; then
        echo "name: $(tr '\\0' ' ' <$p/cmdline)"; ls -l $p/fd; ls -ld $p/root; grep -c . $p/root/proc/mounts
      fi
    done
    """
    console = run(plan, init)
    rest = after(console, "megamod: exec", "name: @megamod-keeper")
    assert "0 -> /dev/null" in rest and "1 -> /dev/null" in rest and "2 -> /dev/null" in rest
    assert "/dev/console" not in rest


def test_deferred_stages_can_be_switched_off_and_are_then_not_masked(run, modules):
    plan = start_plan(modules).stage("late", "userspace").singles("dummy")
    init = "sleep 1; cat /run/modprobe.d/megamod.conf; cat /run/megamod/status; wc -l </proc/modules"
    console = run(plan, init, append="megamod.deferred=off")
    rest = after(console, "megamod: exec", "install ext4 /bin/true", "late waiting", "11\n")
    assert "dummy" not in console.partition("megamod: exec")[2]
    assert rest


def test_deferred_stages_can_be_asked_for_at_once(run, modules):
    plan = start_plan(modules).stage("hand", "manual").singles("dummy")
    console = run(plan, "sleep 1; cat /run/megamod/status", append="megamod.deferred=now")
    after(console, "stage critical done", "stage hand triggered by now", "hand done 0 ")


def test_program_in_the_image_is_executed_with_the_plans_arguments_alone(kernels, boot, modules, tmp_path):
    plan = start_plan(modules, root="exec /bin/app --speed a%20b %", critical=["dummy"])
    plan.stage("late", "delay", "1000").singles("loop")
    script = """
    echo "arguments: $#"; for a in "$@"; do echo "<$a>"; done; echo "variable: $colour"
    /bin/busybox sleep 2; /bin/busybox cat /run/megamod/status; /bin/busybox ls /; /bin/busybox poweroff -f
    """
    image = write_loader_image(tmp_path / "image", plan, files=shell_files(script, path="bin/app"))
    console = boot(image=image, vmlinuz=kernels("bookworm").vmlinuz, append="colour=red splash").console
    rest = after(console, "megamod: exec /bin/app", "arguments: 3\n<--speed>\n<a b>\n<>\n", "variable: red")
    after(rest, "late done 0 ", "megamod")


def test_program_has_a_console_even_if_the_initramfs_has_no_node_for_it(kernels, boot, modules, tmp_path):
    """A folder in the image takes the place of the node that is built into the kernel."""
    plan = start_plan(modules, root="exec /bin/app", critical=["dummy"])
    script = "echo output; echo error >&2; /bin/busybox ls -l /proc/1/fd; /bin/busybox poweroff -f"
    files = {**shell_files(script, path="bin/app"), "dev/console/empty": b""}
    image = write_loader_image(tmp_path / "image", plan, files=files)
    console = boot(image=image, vmlinuz=kernels("bookworm").vmlinuz).console
    rest = after(console, "unable to open an initial console", "megamod: exec /bin/app", "output", "error")
    assert [n for n in "012" if f"{n} -> /dev/console" not in rest] == []


def test_generators_init_finds_no_mounts_and_the_keeper_survives_it(
    kernels, boot, make_root, make_disk_image, modules, tmp_path
):
    plan = start_plan(modules, root="chain /bin/generator")
    plan.stage("late", "path", "/run/app/ready").singles("dummy")
    plan.stage("later", "path", "/etc/ready").singles("loop")
    script = """
    b=/bin/busybox; echo "generator: $0 $@"; $b ls /proc /sys /dev | $b wc -l
    $b mount -t devtmpfs dev /dev && $b mount -t proc proc /proc && $b mount -t sysfs sys /sys && echo mounted
    $b mount -t ext4 -o rw /dev/vda /root
    for m in dev proc sys run; do $b mount --move /$m /root/$m; done
    exec $b switch_root /root /sbin/init
    """
    init = """
    sleep 0.5; cat /run/megamod/status; mkdir /run/app; sleep 0.5; touch /run/app/ready; sleep 1
    touch /etc/ready; sleep 1; cat /run/megamod/status
    """
    disk = make_disk_image(make_root(init + POWER_OFF))
    files = shell_files(script, path="bin/generator")
    image = write_loader_image(tmp_path / "image", plan, files=files)
    vmlinuz = kernels("bookworm").vmlinuz
    console = boot(image=image, vmlinuz=vmlinuz, disks=[disk], append="root=/dev/vda splash").console
    rest = after(console, "megamod: exec /bin/generator", "generator: /bin/generator splash", "mounted", "late waiting")
    after(rest, "stage late triggered by path", "stage later triggered by path", "late done", "later done")
