"""The fallback: a megamodule that the kernel refuses, or megamod=off, and the members' own files go in one by one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.boot.loader_images import (
    LABEL,
    POWER_OFF,
    UUID,
    Plan,
    after,
    read_module,
    section,
    shell_files,
    show,
    start_plan,
    write_loader_image,
)

DISK = ("virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "virtio_blk")
FILES = ("crc32c_generic", "crc16", "mbcache", "jbd2", "ext4")
LOOK = show("status", "cat /run/megamod/status") + show("modules", "cut -d' ' -f1 /proc/modules")


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


def damaged(modules: Path) -> bytes:
    return read_module(modules, "crc16")[:2000]


def test_members_of_a_refused_critical_file_go_in_one_by_one(run, modules):
    plan = start_plan(modules, critical=(), fallback="modules")
    plan.merged("megamod_critical", *DISK, *FILES, data=damaged(modules))
    console = run(plan, LOOK)
    rest = after(
        console, "load megamod_critical failed: ENOEXEC", "load megamod_critical: its 11 modules are loaded one"
    )
    for name in ("virtio_ring", "virtio_blk"):
        assert f"megamod: load {name} took " in rest
    after(rest, "load ext4 took ", "stage critical done", "root /dev/vda ext4 mounted")
    assert section(console, "status").split()[:3] == ["critical", "done", "8"]
    assert section(console, "status").split()[4:] == ["11", "0", "0", "fallback"]
    assert set(section(console, "modules").split()) == {*DISK, *FILES}


def test_off_takes_the_fallback_with_the_members_parameters(run, modules):
    plan = start_plan(modules, critical=(), fallback="modules")
    plan.merged("megamod_critical", *DISK, *FILES)
    plan.stage("late", "userspace").merged("megamod_late", "soundcore", "snd", "loop", "dummy")
    plan.lines.extend(["argument loop.max_part=3", "argument dummy.numdummies=1"])
    init = "sleep 1; " + show("words", "cat /sys/module/loop/parameters/max_* /sys/module/snd/parameters/major") + LOOK
    console = run(plan, init, append='megamod=off loop.max_loop=5 snd.major=99 "dummy.text=a b" megamod.debug')
    assert "megamod: load megamod_critical: its 11 modules are loaded one by one" in console
    assert "megamod: debug: load loop: max_part=3 max_loop=5\n" in console
    assert 'megamod: debug: load dummy: numdummies=1 "text=a b"\n' in console
    assert section(console, "words").split() == ["5", "3", "99"]
    rows = [row.split() for row in section(console, "status").splitlines()]
    assert [(row[0], row[1], row[2], row[4], row[7]) for row in rows] == [
        ("critical", "done", "0", "11", "fallback"),
        ("late", "done", "0", "4", "fallback"),
    ]
    assert "megamod_" not in section(console, "modules")


def test_failure_of_an_original_is_carried_to_its_users_in_all_stages(run, modules):
    """soundcore's original is damaged too."""
    plan = start_plan(modules, fallback="modules")
    plan.merged("megamod_sound", "soundcore", "snd", "loop", data=damaged(modules))
    plan.files["megamod/originals/soundcore.ko"] = b"no module at all" * 100
    plan.stage("late", "userspace").merged("megamod_late", "snd_timer", "dummy")
    plan.single("snd_hwdep")
    console = run(plan, "sleep 1; " + LOOK + show("mask", "cat /run/modprobe.d/megamod.conf"))
    rest = after(console, "load megamod_sound failed: ENOEXEC", "load soundcore failed: ENOEXEC")
    rest = after(rest, "member snd skipped: needs soundcore", "load loop took ", "stage critical done")
    # Without snd in the kernel the megamodule of what needs it finds no symbols there.
    rest = after(
        rest, "load megamod_late failed: ENOENT", "member snd_timer skipped: needs soundcore", "load dummy took "
    )
    assert "member snd_hwdep skipped: needs soundcore" in rest
    assert {"loop", "dummy"} < set(section(console, "modules").split())
    for name, way in (("soundcore", "false"), ("snd", "false"), ("snd_timer", "false"), ("loop", "true")):
        assert f"install {name} /bin/{way}\n" in section(console, "mask")


def test_deferred_stage_that_is_refused_falls_back_and_its_files_are_freed(run, modules):
    plan = start_plan(modules, fallback="modules")
    plan.stage("late", "userspace").merged("megamod_late", "soundcore", "snd", data=damaged(modules))
    plan.stage("later", "manual").merged("megamod_later", "loop")
    init = "sleep 1; " + LOOK + show("image", "find /run/megamod/image -type f | sort")
    console = run(plan, init)
    rest = after(
        console, "stage late triggered by userspace", "load megamod_late failed: ENOEXEC", "load soundcore took "
    )
    after(rest, "load snd took ", "stage late done")
    assert "late done 8 " in section(console, "status")
    assert section(console, "image").split() == [
        "/run/megamod/image/ctl",
        "/run/megamod/image/megamod_later.ko",
        "/run/megamod/image/originals/loop.ko",
        "/run/megamod/image/outcome",
        "/run/megamod/image/plan",
    ]


def test_fallback_of_a_deferred_stage_works_in_an_emptied_initramfs(
    kernels, boot, make_root, make_disk_image, modules, tmp_path
):
    plan = start_plan(modules, root="chain /bin/generator", fallback="modules")
    plan.stage("late", "manual").merged("megamod_late", "soundcore", "snd", data=damaged(modules))
    script = """
    b=/bin/busybox
    $b mount -t devtmpfs dev /dev && $b mount -t proc proc /proc && $b mount -t sysfs sys /sys
    $b mount -t ext4 /dev/vda /root
    for m in dev proc sys run; do $b mount --move /$m /root/$m; done
    exec $b switch_root /root /sbin/init
    """
    init = "/run/megamod/ctl trigger late; sleep 1; " + LOOK + show("image", "ls /run/megamod/image")
    disk = make_disk_image(make_root(init + POWER_OFF))
    image = write_loader_image(tmp_path / "image", plan, files=shell_files(script, path="bin/generator"))
    console = boot(image=image, vmlinuz=kernels("bookworm").vmlinuz, disks=[disk]).console
    after(
        console, "stage late triggered by manual", "load megamod_late failed: ENOEXEC", "load snd took ", "late done 8 "
    )
    assert section(console, "image").split() == ["ctl", "outcome", "plan"]
