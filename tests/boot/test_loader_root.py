"""The root file system: each way to name it, waiting for it, and what init finds there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.boot.loader_images import (
    LABEL,
    PARTLABEL,
    PARTUUID,
    POWER_OFF,
    UUID,
    Plan,
    after,
    gpt_disk,
    shell_files,
    start_plan,
    write_loader_image,
)

# With panic=0 the kernel prints this and goes on for ever.
STANDS_STILL = "end Kernel panic"


@pytest.fixture
def modules(kernels) -> Path:
    return kernels("bookworm").modules


@pytest.fixture
def run(kernels, boot, make_root, make_disk_image, tmp_path):
    """``run(plan, "echo hello", append="root=/dev/vda")``: boot with a root disk; returns the console."""

    def run(plan: Plan, init: str, *, append: str, gpt: bool = False, files=None, **options) -> str:
        disk = make_disk_image(make_root(init + POWER_OFF), label=LABEL, uuid=UUID)
        if gpt:
            disk = gpt_disk(tmp_path / "gpt.img", disk)
        image = write_loader_image(tmp_path / "image", plan, files=files)
        return boot(image=image, vmlinuz=kernels("bookworm").vmlinuz, disks=[disk], append=append, **options).console

    return run


def test_root_is_found_by_name_and_init_is_started_as_the_kernel_would(run, modules):
    init = """
    echo "arguments: $0 $@"; echo "variable: $colour"
    grep " / " /proc/mounts; cat /proc/modules | wc -l
    cut -d" " -f2,3 /proc/mounts
    touch /written && echo writable
    """
    console = run(start_plan(modules), init, append="root=/dev/vda rw colour=blue splash -- extra words")
    rest = after(console, "megamod: start", "megamod: root /dev/vda ext4 mounted", "megamod: exec /sbin/init")
    rest = after(rest, "arguments: /sbin/init splash extra words", "variable: blue", "/dev/vda / ext4 rw", "11\n")
    after(rest, "/dev devtmpfs\n/proc proc\n/sys sysfs\n/run tmpfs\n/run/megamod/image rootfs\n/ ext4\n", "writable")


def test_root_is_read_only_without_rw_and_rootflags_reach_the_mount(run, modules):
    append = "root=/dev/vda rootfstype=ext4 rootflags=noatime,nobarrier"
    console = run(start_plan(modules), "grep ' / ' /proc/mounts", append=append)
    assert "/dev/vda / ext4 ro,noatime,nobarrier" in console


@pytest.mark.parametrize(
    "root",
    [
        f"UUID={UUID.upper()}",
        f"LABEL={LABEL}",
        f"PARTUUID={PARTUUID}",
        f"PARTLABEL={PARTLABEL}",
        f"/dev/disk/by-uuid/{UUID}",
    ],
)
def test_root_is_found_on_a_partition_by_what_identifies_it(run, modules, root):
    console = run(start_plan(modules), "echo the end", append=f"root={root}", gpt=True)
    after(console, "megamod: root /dev/vda1 ext4 mounted", "megamod: exec /sbin/init", "the end")


def test_root_is_found_by_device_number_and_init_by_its_option(run, modules):
    console = run(start_plan(modules), "echo the end", append="root=254:0 init=/bin/other", files=None)
    assert "megamod: root /dev/vda ext4 mounted" in console
    assert "megamod: error: no init in the root file system: /bin/other is not there" in console


def test_root_that_appears_late_is_mounted_when_its_event_comes(run, modules):
    """The disk's driver is in a stage that the keeper loads while the loader waits for the root."""
    plan = start_plan(modules, critical=["virtio_pci", "crc32c_generic", "ext4"])
    plan.stage("disk", "now").singles("virtio_blk")
    console = run(plan, "echo the end", append="root=/dev/vda rootwait")
    after(console, "megamod: stage disk triggered by now", "megamod: root /dev/vda ext4 mounted", "the end")


def test_root_that_does_not_appear_is_named_and_ends_in_a_panic(run, modules):
    console = run(start_plan(modules), "echo the end", append="root=LABEL=nowhere rootwait=1")
    rest = after(console, "megamod: waiting for root LABEL=nowhere")
    rest = after(rest, "megamod: error: root LABEL=nowhere: it did not appear within 1 s; block devices: vda")
    after(rest, "megamod: error: giving up", "Attempted to kill init! exitcode=0x00000100")
    assert "the end" not in console


def test_file_system_without_a_driver_is_named(run, modules):
    plan = start_plan(modules, critical=["virtio_pci", "virtio_blk"])
    console = run(plan, "echo the end", append="root=/dev/vda")
    assert (
        "megamod: error: root /dev/vda: /dev/vda cannot be mounted: ENODEV (no driver for its file system)" in console
    )


def test_missing_root_option_is_an_error(run, modules):
    console = run(start_plan(modules), "true", append="quiet rootwait=1")
    rest = after(console, "megamod: error: root gpt-auto: no partition of the type for roots appeared within 1 s")
    after(rest, "and no root= is on the kernel command line; block devices: vda (ext4)")


def test_emergency_shell_comes_before_the_panic_and_ends_in_another_try(run, modules):
    """The second shell ends at once, as one without anybody at its console does."""
    shell = "echo shell on $(/bin/busybox tty); [ -e /seen ] && exit; >/seen; /bin/busybox sleep 3"
    append = "root=/dev/vdb rootwait=1 panic=0"
    console = run(start_plan(modules), "true", append=append, files=shell_files(shell), until=STANDS_STILL)
    rest = after(console, "megamod: error: root /dev/vdb", "megamod: emergency shell", "shell on /dev/console")
    rest = after(rest, "megamod: error: root /dev/vdb", "shell on /dev/console", "giving up")
    assert "Attempted to kill init! exitcode=0x00000100" in rest


@pytest.mark.parametrize(
    ("word", "head", "why"),
    [
        ("", (), "panic= is set"),
        ("panic=0 rd.shell=0", (), "rd.shell=0"),
        ("panic=0 megamod.break=pre-load,pre-mount", ("shell none",), "the image forbids it"),
    ],
)
def test_emergency_shell_stays_away_where_somebody_wants_none(run, modules, word, head, why):
    """QEMU is always started with panic=-1."""
    console = run(
        start_plan(modules, critical=["dummy"], head=head),
        "true",
        append=f"root=/dev/vdb rootwait=1 {word}",
        files=shell_files("echo a door"),
        until=STANDS_STILL,
    )
    after(console, "error: root /dev/vdb", f"megamod: no emergency shell: {why}", "giving up", "Kernel panic")
    assert "a door" not in console


def test_break_points_give_a_shell_and_the_boot_goes_on(run, modules):
    shell = "/bin/busybox ls -d /megamod; /bin/busybox wc -l </proc/modules; /bin/busybox ls /root"
    console = run(
        start_plan(modules),
        "echo the end",
        append="root=/dev/vda megamod.break=pre-load rd.break",
        files=shell_files(shell),
    )
    rest = after(console, "megamod: break at pre-load", "/megamod", "0\n")
    rest = after(rest, "megamod: stage critical done", "megamod: break at pre-switch", "/megamod", "11\n", "sbin")
    assert "the end" in rest
    assert "pre-mount" not in console.partition("megamod: start")[2]
