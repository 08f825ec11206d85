"""What lies over and under the root: an overlay that takes what is written, dm-verity that checks what is read."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from megamod.boot.debian import fetch_package_files
from megamod.common.host import cache_folder
from tests.boot.loader_images import DISK_MODULES, POWER_OFF, after, section, show, start_plan, write_loader_image

SALT = "00112233445566778899aabbccddeeff"


@pytest.fixture
def modules(kernels) -> Path:
    return kernels("bookworm").modules


@pytest.fixture
def disk(make_root, make_disk_image):
    """``disk("echo hello")``: a root disk whose init runs these commands."""
    return lambda init: make_disk_image(make_root(init + POWER_OFF, files={"etc/motd": b"the original\n"}))


@pytest.fixture
def veritysetup() -> list[str]:
    """The command veritysetup, from the packages of Debian that have it and its libraries."""
    trees = [
        fetch_package_files(name, "bookworm", architecture="amd64", cache=cache_folder())
        for name in ("cryptsetup-bin", "libcryptsetup12", "libdevmapper1.02.1", "libjson-c5", "libpopt0", "libargon2-1")
    ]
    folders = [tree / lib for tree in trees for lib in ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu")]
    [program] = [tree / "sbin/veritysetup" for tree in trees if (tree / "sbin/veritysetup").exists()]
    return ["env", f"LD_LIBRARY_PATH={':'.join(str(f) for f in folders)}", str(program)]


def hash_tree(veritysetup: list[str], data: Path, tree: Path) -> str:
    """Writes the hash tree of *data* to *tree*, as veritysetup does; returns the plan's record for it as /dev/vdb."""
    with tree.open("wb") as file:
        file.truncate(8 << 20)
    # A small ext4 has blocks of 1 KiB, and dm-verity makes its own block the device's smallest.
    command = [*veritysetup, "format", "--salt", SALT, "--data-block-size", "1024", str(data), str(tree)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    said = dict(re.findall(r"^(.+?):\s+(.+)$", text, re.MULTILINE))
    return f"verity /dev/vdb sha256 1024 4096 {said['Data blocks']} 1 {said['Root hash']} {said['Salt']}"


def test_what_is_written_to_an_overlaid_root_does_not_reach_the_disk(kernels, boot, disk, modules, tmp_path):
    init = """
    cat /etc/motd; echo changed >/etc/motd && cat /etc/motd; touch /new && ls -d /new
    """ + show("mounts", "cat /proc/mounts")
    plan = start_plan(modules, critical=(*DISK_MODULES, "overlay"), head=["overlay tmpfs size=1m"])
    image = write_loader_image(tmp_path / "image", plan)
    root = disk(init)
    before = root.read_bytes()
    for _ in range(2):
        console = boot(
            image=image,
            vmlinuz=kernels("bookworm").vmlinuz,
            append="root=/dev/vda rw",
            extra=(
                *("-drive", f"file={root},format=raw,if=none,id=root"),
                *("-device", "virtio-blk-pci,drive=root"),
            ),
        ).console
        rest = after(console, "root /dev/vda ext4 mounted", "root covered by a tmpfs", "the original\nchanged\n/new\n")
        assert "overlay / overlay rw" in section(console, "mounts")
        assert rest
    assert root.read_bytes() == before


def test_an_overlay_without_its_driver_is_named(kernels, boot, disk, modules, tmp_path):
    image = write_loader_image(tmp_path / "image", start_plan(modules, head=["overlay tmpfs"]))
    console = boot(
        image=image, vmlinuz=kernels("bookworm").vmlinuz, disks=[disk("true")], append="root=/dev/vda"
    ).console
    after(console, "megamod: error: the overlay over the root cannot be mounted: ENODEV (no driver for it)", "panic")


def test_a_root_with_a_hash_tree_is_read_by_dm_verity_under_an_overlay(
    kernels, boot, disk, modules, tmp_path, veritysetup
):
    root = disk("cat /etc/motd; echo new >/etc/motd && cat /etc/motd; cat /sys/block/dm-0/ro /sys/block/dm-0/dm/name")
    record = hash_tree(veritysetup, root, tmp_path / "hashes")
    plan = start_plan(
        modules, critical=(*DISK_MODULES, "dm_mod", "dm_verity", "overlay"), head=["overlay tmpfs", record]
    )
    image = write_loader_image(tmp_path / "image", plan)
    console = boot(
        image=image,
        vmlinuz=kernels("bookworm").vmlinuz,
        disks=[root, tmp_path / "hashes"],
        append="root=/dev/vda rw",
    ).console
    after(console, "megamod: root /dev/dm-0 ext4 mounted", "covered by", "the original\nnew\n", "1\nroot\n")


def test_a_changed_block_of_a_verity_root_is_not_read(kernels, boot, disk, modules, tmp_path, veritysetup):
    root = disk("cat /etc/motd; echo the end")
    record = hash_tree(veritysetup, root, tmp_path / "hashes")
    data = root.read_bytes()
    assert data.count(b"the original\n") == 1
    root.write_bytes(data.replace(b"the original\n", b"the burglar \n"))
    plan = start_plan(modules, critical=(*DISK_MODULES, "dm_mod", "dm_verity"), head=[record])
    image = write_loader_image(tmp_path / "image", plan)
    console = boot(
        image=image, vmlinuz=kernels("bookworm").vmlinuz, disks=[root, tmp_path / "hashes"], append="root=/dev/vda"
    ).console
    after(console, "root /dev/dm-0 ext4 mounted", "data block", "is corrupted", "the end")
    assert "burglar" not in console


def test_a_wrong_root_hash_and_a_missing_hash_device_end_in_a_message(
    kernels, boot, disk, modules, tmp_path, veritysetup
):
    root = disk("echo the end")
    record = hash_tree(veritysetup, root, tmp_path / "hashes").split()
    wrong = " ".join([*record[:7], "00" * 32, record[8]])
    nowhere = " ".join([record[0], "PARTLABEL=nowhere", *record[2:]])
    for text, message in (
        (wrong, "megamod: error: root /dev/vda: /dev/dm-0 cannot be mounted: "),
        (nowhere, "megamod: error: root /dev/vda: it did not appear within 1 s"),
    ):
        plan = start_plan(modules, critical=(*DISK_MODULES, "dm_mod", "dm_verity"), head=[text])
        image = write_loader_image(tmp_path / "image", plan)
        console = boot(
            image=image,
            vmlinuz=kernels("bookworm").vmlinuz,
            disks=[root, tmp_path / "hashes"],
            append="root=/dev/vda rootwait=1",
        ).console
        after(console, message, "giving up", "Kernel panic")
        assert "the end" not in console
