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


def ubi_image(folder: Path, root: Path, tool) -> Path:
    """A flash of 32 MiB with erase blocks of 128 KiB and writes of one byte, as block2mtd makes it of a disk."""
    names = {name: tool(name, package="mtd-utils") for name in ("mkfs.ubifs", "ubinize")}
    volume, flash = folder / "root.ubifs", folder / "flash.img"
    size = ["-m", "1", "-e", str((128 << 10) - 128), "-c", "240", "-x", "zstd"]
    subprocess.run([names["mkfs.ubifs"], *size, "-r", str(root), "-o", str(volume)], check=True, capture_output=True)
    (folder / "ubi.ini").write_text(UBI.format(image=volume))
    command = [names["ubinize"], "-p", "128KiB", "-m", "1", "-o", str(flash), str(folder / "ubi.ini")]
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
    flash = ubi_image(tmp_path, make_root(show("mounts", "cat /proc/mounts") + POWER_OFF), tool)
    extra = ["-drive", f"file={flash},format=raw,if=none,id=flash", "-device", "virtio-blk-pci,drive=flash"]
    append = "root=ubi0:root rootfstype=ubifs rw"
    console = boot(image=image, vmlinuz=kernel.vmlinuz, append=append, extra=extra, memory=256).console
    assert "ubi0:root / ubifs rw" in section(console, "mounts")
