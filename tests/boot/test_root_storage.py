"""Roots that are more than a disk with a file system: flash by UBI, a session that was saved in swap."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.boot.image_fixtures import make_image
from tests.boot.loader_images import DISK_MODULES, POWER_OFF, after, section, show, start_plan, write_loader_image

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


SLEEP = """
echo session $$ begins; {swap}
echo disk >/sys/power/disk; echo shutdown >/sys/power/disk
marker=remembered
echo disk >/sys/power/state
echo "the session is back, $marker"
"""


@pytest.mark.slow
@pytest.mark.parametrize("where", ["partition", "file"])
def test_a_saved_session_is_resumed_before_the_root_is_touched(
    kernels, boot, make_root, make_disk_image, tool, tmp_path, where
):
    kernel = kernels("bookworm")
    swap = tmp_path / "swap.img"
    with swap.open("wb") as file:
        file.truncate(300 << 20)
    mkswap = tool("mkswap", package="util-linux")
    subprocess.run([mkswap, str(swap)], check=True, capture_output=True)
    if where == "partition":
        folder, words = make_root(SLEEP.format(swap="swapon /dev/vdb") + POWER_OFF), "resume=/dev/vdb"
        root = make_disk_image(folder, size_mib=64)
    else:
        folder = make_root(SLEEP.format(swap="swapon /swap") + POWER_OFF)
        # mkfs makes holes of zeros, and swapon takes no file with holes: nothing but the header's fields may be zero
        # (union swap_header, include/linux/swap.h).
        (folder / "swap").write_bytes(b"\xa5" * (160 << 20))
        subprocess.run([mkswap, str(folder / "swap")], check=True, capture_output=True)
        with (folder / "swap").open("r+b") as file:
            for start, end in ((0, 1024), (1536, 4086)):
                file.seek(start)
                file.write(b"\xa5" * (end - start))
        (folder / "swap").chmod(0o600)
        root = make_disk_image(folder, size_mib=320)
        debugfs = tool("debugfs", package="e2fsprogs")
        said = subprocess.run([debugfs, "-R", "bmap /swap 0", str(root)], capture_output=True, text=True, check=True)
        blocks = subprocess.run([debugfs, "-R", "stats -h", str(root)], capture_output=True, text=True, check=True)
        size = int(re.search(r"Block size:\s+(\d+)", blocks.stdout)[1])
        words = f"resume=/dev/vda resume_offset={int(said.stdout) * size // 4096}"
    image = write_loader_image(tmp_path / "image", start_plan(kernel.modules, critical=DISK_MODULES))
    extra: list[str] = []
    for number, disk in enumerate((root, swap)):
        extra += ["-drive", f"file={disk},format=raw,if=none,id=d{number}"]
        extra += ["-device", f"virtio-blk-pci,drive=d{number}"]
    consoles = [
        boot(image=image, vmlinuz=kernel.vmlinuz, append=f"root=/dev/vda rw {words}", extra=extra, memory=256).console
        for _ in range(2)
    ]
    after(consoles[0], "root /dev/vda ext4 mounted", "begins", "PM: hibernation")
    assert "the session is back" not in consoles[0]
    after(
        consoles[1],
        f"megamod: resuming from /dev/vd{'b' if where == 'partition' else 'a'}",
        "the session is back, remembered",
    )
    assert "mounted" not in consoles[1].partition("resuming from")[2].partition("the session is back")[0]
