"""Roots that are more than a disk with a file system: flash by UBI."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.boot.image_fixtures import make_image
from tests.boot.loader_images import POWER_OFF, section, show

FLASH = """
name: flash
critical: {modules: [virtio_pci, virtio_blk, block2mtd, ubi, ubifs]}
options: {block2mtd: {block2mtd: "/dev/vda,131072"}, ubi: {mtd: "0"}}
root: {from: cmdline}
"""
UBI = "[root]\nmode=ubi\nimage={image}\nvol_id=0\nvol_type=dynamic\nvol_name=root\nvol_flags=autoresize\n"


def make_ubifs(folder: Path, root: Path, tool) -> Path:
    volume = folder / "root.ubifs"
    size = ["-m", "1", "-e", str((128 << 10) - 128), "-c", "240", "-x", "zstd"]
    command = [tool("mkfs.ubifs", package="mtd-utils"), *size, "-r", str(root), "-o", str(volume)]
    subprocess.run(command, check=True, capture_output=True)
    return volume


def make_squashfs(folder: Path, root: Path, tool) -> Path:
    volume = folder / "root.squashfs"
    command = [tool("mksquashfs", package="squashfs-tools"), str(root), str(volume), "-noappend", "-all-root"]
    subprocess.run([*command, "-quiet", "-no-progress"], check=True, capture_output=True)
    return volume


def ubi_image(folder: Path, volume: Path, tool) -> Path:
    """A flash of 32 MiB with erase blocks of 128 KiB and writes of one byte, as block2mtd makes it of a disk."""
    flash = folder / "flash.img"
    (folder / "ubi.ini").write_text(UBI.format(image=volume))
    command = [
        tool("ubinize", package="mtd-utils"),
        "-p",
        "128KiB",
        "-m",
        "1",
        "-o",
        str(flash),
        str(folder / "ubi.ini"),
    ]
    subprocess.run(command, check=True, capture_output=True)
    with flash.open("r+b") as file:
        file.seek(0, 2)
        file.write(b"\xff" * ((32 << 20) - file.tell()))
    return flash


@pytest.mark.slow
def test_a_ubifs_root_comes_up_with_the_calls_that_its_drivers_need(
    made_once, kernels, boot, make_root, tool, tmp_path
):
    """ubi looks for its flash when it starts, ubifs asks for its compressors by name: both come by themselves."""
    kernel = kernels("bookworm")
    image = make_image(made_once, kernel, FLASH)
    root = make_root(show("mounts", "cat /proc/mounts") + POWER_OFF)
    flash = ubi_image(tmp_path, make_ubifs(tmp_path, root, tool), tool)
    extra = ["-drive", f"file={flash},format=raw,if=none,id=flash", "-device", "virtio-blk-pci,drive=flash"]
    append = "root=ubi0:root rootfstype=ubifs rw"
    console = boot(image=image, vmlinuz=kernel.vmlinuz, append=append, extra=extra, memory=256).console
    assert "ubi0:root / ubifs rw" in section(console, "mounts")


@pytest.mark.slow
def test_a_squashfs_in_a_ubi_volume_is_mounted_by_the_block_device_that_ubi_makes(
    made_once, kernels, boot, make_root, tool, tmp_path
):
    kernel = kernels("bookworm")
    image = make_image(made_once, kernel, FLASH.replace("ubifs]", "squashfs]"))
    root = make_root(show("mounts", "cat /proc/mounts") + POWER_OFF)
    flash = ubi_image(tmp_path, make_squashfs(tmp_path, root, tool), tool)
    extra = ["-drive", f"file={flash},format=raw,if=none,id=flash", "-device", "virtio-blk-pci,drive=flash"]
    append = "root=/dev/ubiblock0_0 ubi.block=0,root"
    console = boot(image=image, vmlinuz=kernel.vmlinuz, append=append, extra=extra, memory=256).console
    assert "/dev/ubiblock0_0 / squashfs ro" in section(console, "mounts")
