"""Roots that nothing names, a /usr of its own, a root from the host's folder, a session that was saved to disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.boot.loader_images import (
    DISK_MODULES,
    LABEL,
    PARTUUID,
    POWER_OFF,
    UUID,
    after,
    gpt_disk,
    start_plan,
    write_loader_image,
)
from tests.disks.zoo import ZOO, run

_ROOT_TYPE = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709"  # of x86_64, in the discoverable partitions specification
_OTHER_TYPE = "b921b045-1df0-41c3-af44-4c6f280d3fae"  # of arm64


@pytest.fixture
def modules(kernels) -> Path:
    return kernels("bookworm").modules


@pytest.fixture
def start(kernels, boot, tmp_path, modules):
    """``start([disk], "root=/dev/vda")``: the console of a boot with these disks."""

    def start(disks: list[Path], append: str, *, critical=DISK_MODULES, **options) -> str:
        image = write_loader_image(tmp_path / "image", start_plan(modules, critical=critical))
        return boot(image=image, vmlinuz=kernels("bookworm").vmlinuz, disks=disks, append=append, **options).console

    return start


@pytest.fixture
def typed_disk(make_root, make_disk_image, tmp_path, tool):
    """``typed_disk("a.img", TYPE)``: a GPT disk whose one partition is a root and has this type."""
    sgdisk = tool("sgdisk", package="gdisk")

    def make(name: str, kind: str, *attributes: str) -> Path:
        disk = gpt_disk(tmp_path / name, make_disk_image(make_root("echo the end" + POWER_OFF), label=LABEL))
        run([sgdisk, "-e", "-t", f"1:{kind}", *(word for bit in attributes for word in ("-A", f"1:set:{bit}")), disk])
        return disk

    return make


def test_root_that_nothing_names_is_the_partition_with_its_type(start, typed_disk):
    disks = [typed_disk("other.img", _OTHER_TYPE), typed_disk("root.img", _ROOT_TYPE)]
    after(start(disks, "splash"), "megamod: root /dev/vdb1 ext4 mounted", "the end")


def test_partition_that_is_marked_as_not_automatic_is_left_alone(start, typed_disk):
    console = start([typed_disk("root.img", _ROOT_TYPE, "63")], "root=gpt-auto rootwait=1")
    rest = after(console, "megamod: error: root gpt-auto: no partition of the type for roots appeared within 1 s;")
    assert "vda1 (ext4)" in rest.partition("block devices:")[2].partition("\n")[0]


def test_two_disks_with_a_root_that_nothing_names_are_both_named(start, typed_disk):
    console = start([typed_disk("a.img", _ROOT_TYPE), typed_disk("b.img", _ROOT_TYPE)], "quiet")
    rest = after(console, "megamod: error: no root= on the kernel command line, and both /dev/vd")
    after(rest, "have a partition of the type for roots: name one in root=")


def test_root_is_the_next_partition_after_the_one_that_is_named(start, make_root, make_disk_image, tmp_path, tool):
    disk = gpt_disk(tmp_path / "gpt.img", make_disk_image(make_root("echo the end" + POWER_OFF), uuid=UUID))
    tool("sgdisk", package="gdisk")
    run(["sgdisk", "-e", "-r", "1:2", "-u", "2:R", "-a", "1", "-n", "1:34:2047", "-u", f"1:{PARTUUID}", disk])
    console = start([disk], f"root=PARTUUID={PARTUUID}/PARTNROFF=1")
    after(console, "megamod: root /dev/vda2 ext4 mounted", "the end")


def test_root_hash_that_nothing_would_check_is_refused(start, make_disk_image, make_root):
    console = start([make_disk_image(make_root("echo the end" + POWER_OFF))], "root=/dev/vda roothash=0123")
    assert "megamod: error: roothash= is on the kernel command line, but the image has no verity in its plan" in console
    assert "the end" not in console


@pytest.mark.parametrize("words", ["", " mount.usr=LABEL=its-usr mount.usrfstype=ext4 mount.usrflags=noatime"])
def test_usr_is_mounted_by_the_command_line_or_the_roots_fstab(start, make_root, make_disk_image, tmp_path, words):
    fstab = b"# comment\nproc /proc proc defaults 0 0\nLABEL=its-usr\t/usr auto defaults,nofail,x-systemd.x 0 2\n"
    root = make_root("echo wrong init" + POWER_OFF, files={"etc/fstab": b"" if words else fstab, "usr/.keep": b""})
    usr = tmp_path / "usr"
    (usr / "lib").mkdir(parents=True)
    (usr / "lib/init").write_text("#!/bin/busybox sh\ngrep ' /usr ' /proc/mounts\necho the end" + POWER_OFF)
    (usr / "lib/init").chmod(0o755)
    disks = [make_disk_image(root), make_disk_image(usr, label="its-usr")]
    console = start(disks, f"root=/dev/vda init=/usr/lib/init{words}")
    rest = after(console, "megamod: root /dev/vda ext4 mounted", "megamod: /usr /dev/vdb ext4 mounted")
    after(rest, "/dev/vdb /usr ext4 ro," + ("noatime" if words else ""), "the end")


def test_usr_that_does_not_appear_is_named(start, make_root, make_disk_image):
    disk = make_disk_image(make_root("echo the end" + POWER_OFF))
    console = start([disk], "root=/dev/vda mount.usr=LABEL=nowhere rootwait=1")
    after(console, "megamod: error: /usr LABEL=nowhere: it did not appear within 1 s; block devices: vda (ext4)")
    assert "the end" not in console


@pytest.mark.parametrize("tag", ["/dev/root", "mytag"])
def test_folder_of_the_host_is_a_root_by_its_tag(start, make_root, tag):
    folder = make_root("echo the end; grep ' / ' /proc/mounts" + POWER_OFF)
    devices = (
        "-fsdev",
        f"local,id=f,path={folder},security_model=none",
        "-device",
        f"virtio-9p-pci,fsdev=f,mount_tag={tag}",
    )
    append = f"root={tag} rootfstype=9p rootflags=trans=virtio,version=9p2000.L"
    console = start([], append, critical=("virtio_pci", "9pnet_virtio", "9p"), extra=devices)
    after(console, f"megamod: root {tag} 9p mounted", "the end")


@pytest.fixture
def sleeper(make_root, make_disk_image, tmp_path):
    """QEMU's options for a root that hibernates once, and for its swap; both are written to."""
    init = """
    swapon /dev/vdb
    echo shutdown >/sys/power/disk
    echo going to sleep
    echo disk >/sys/power/state || echo no sleep
    echo back again
    """
    root = make_disk_image(make_root(init + POWER_OFF))
    swap = tmp_path / "swap.img"
    with swap.open("wb") as file:
        file.truncate(1 << 30)
    run(["mkswap", "-q", "-U", UUID, swap])
    return [word for path in (root, swap) for word in ("-drive", f"file={path},format=raw,if=virtio")]


def test_session_that_was_saved_to_a_partition_goes_on(start, sleeper):
    append = f"root=/dev/vda rw resume=UUID={UUID}"
    first = start([], append, extra=sleeper, timeout=300)
    after(first, "megamod: root /dev/vda ext4 mounted", "going to sleep")
    assert "resuming from" not in first and "back again" not in first
    second = start([], append, extra=sleeper, timeout=300)
    after(second, "megamod: resuming from /dev/vdb", "back again")
    assert "megamod: root" not in second and "going to sleep" not in second


def test_session_is_left_alone_with_noresume(start, sleeper):
    after(start([], "root=/dev/vda rw", extra=sleeper, timeout=300), "going to sleep")
    console = start([], f"root=/dev/vda rw noresume resume=UUID={UUID} init=/bin/true", extra=sleeper, timeout=300)
    assert "resuming from" not in console and "megamod: root /dev/vda ext4 mounted" in console


def test_session_that_the_kernel_refuses_is_said_to_be_lost(start, make_root, make_disk_image, tmp_path):
    ZOO["hibernation image"](tmp_path / "swap")
    disk = make_disk_image(make_root("echo the end" + POWER_OFF))
    console = start([disk, tmp_path / "swap"], "root=/dev/vda resume=/dev/vdb")
    rest = after(
        console, "megamod: resuming from /dev/vdb", "megamod: error: the session on /dev/vdb was not resumed: "
    )
    after(rest, "it is lost", "megamod: root /dev/vda ext4 mounted", "the end")


def test_resume_device_that_does_not_appear_does_not_end_the_boot(start, make_root, make_disk_image):
    disk = make_disk_image(make_root("echo the end" + POWER_OFF))
    console = start([disk], f"root=/dev/vda resume=UUID={UUID} rootwait=1")
    rest = after(console, f"megamod: waiting for resume=UUID={UUID}")
    after(rest, f"megamod: resume=UUID={UUID}: it did not appear; continuing without it", "the end")


def test_resume_device_that_the_loader_cannot_open_is_named(start, make_root, make_disk_image):
    disk = make_disk_image(make_root("echo the end" + POWER_OFF))
    console = start([disk], "root=/dev/vda resume=/dev/mapper/vg-swap")
    after(console, "megamod: resume=/dev/mapper/vg-swap: nothing here makes devices of the device mapper", "the end")
