"""Roots of boards: SPI-NOR with the partitions of the device tree, an SD card by PARTUUID, CFI NOR with UBI and UBIFS.

QEMU starts the kernel itself; what the boot loader would give it, the device tree among it, is on QEMU's command line.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from megamod.boot.debian import Kernel
from megamod.boot.disk import busybox_root
from megamod.boot.qemu import run_command
from tests.boot.image_fixtures import foreign_busybox, make_image, manifest_of
from tests.boot.loader_images import PARTUUID, after
from tests.boot.partitioned_disks import Partition, ext4_of_pages, write_gpt

pytestmark = pytest.mark.slow

_MIB = 1 << 20
_INIT = "grep ' / ' /proc/mounts; grep MemTotal /proc/meminfo; cat /proc/mtd; echo the end; sync; poweroff -f\n"


def boot_board(kernel: Kernel, image: Path, machine: Sequence[str], append: str, *, timeout: float = 400) -> str:
    """The console of a board until its root's init has shown everything."""
    command = [*machine, "-nodefaults", "-no-reboot", "-display", "none", "-kernel", str(kernel.vmlinuz)]
    command += ["-initrd", str(image), "-append", f"panic=-1 {append}"]
    result = run_command(command, timeout=timeout, until="the end|Kernel panic", linger=1)
    print(result.tail(60))
    assert not result.timed_out, "the board did not come to its end"
    return result.console


def make_folder(path: Path, architecture: str) -> Path:
    return busybox_root(path, init=_INIT, busybox=foreign_busybox(architecture))


def write_flash(path: Path, size: int, parts: dict[int, bytes]) -> Path:
    """An erased flash with *parts* at their places."""
    with path.open("wb") as file:
        file.write(b"\xff" * size)
        for place, data in parts.items():
            file.seek(place)
            file.write(data)
        assert file.tell() <= size
    return path


# As boards have it in their device trees; Linux' own tree of this board leaves the flash in one piece. The last first:
# a node of an overlay is put before those that are there (libfdt), and the kernel numbers them in that order.
_PARTITIONS = """
/dts-v1/;
/plugin/;
&{/soc/bus@2000000/spba-bus@2000000/spi@2008000/flash@0} {
	partitions {
		compatible = "fixed-partitions";
		#address-cells = <1>;
		#size-cells = <1>;
		partition@40000 { label = "root"; reg = <0x40000 0x1c0000>; };
		partition@0 { label = "bootloader"; reg = <0x0 0x40000>; };
	};
};
"""


def test_a_root_in_spi_nor_is_found_by_the_partitions_of_its_device_tree(made_once, kernels, tool, tmp_path):
    """i.MX6 sabrelite with Debian's kernel: a squashfs on the second partition of 2 MiB."""
    kernel = kernels("trixie", "armhf")
    [tree] = kernel.vmlinuz.parent.parent.glob("usr/lib/linux-image-*/imx6q-sabrelite.dtb")
    overlay, board = tmp_path / "partitions.dtbo", tmp_path / "board.dtb"
    command = [tool("dtc", package="device-tree-compiler"), "-q", "-I", "dts", "-O", "dtb", "-o", str(overlay), "-"]
    subprocess.run(command, input=_PARTITIONS, text=True, check=True)
    command = [tool("fdtoverlay", package="device-tree-compiler"), "-i", str(tree), "-o", str(board), str(overlay)]
    subprocess.run(command, check=True)
    squashed = tmp_path / "root.squashfs"
    command = [tool("mksquashfs", package="squashfs-tools"), str(make_folder(tmp_path / "root", "armhf"))]
    command += [str(squashed), "-comp", "xz", "-noappend", "-all-root", "-quiet", "-no-progress"]
    subprocess.run(command, check=True, capture_output=True)
    flash = write_flash(tmp_path / "flash.img", 2 * _MIB, {0x40000: squashed.read_bytes()})
    profile = f'name: sabrelite\ncritical: {{modules: ["@dtb:{board}#storage", mtdblock, squashfs]}}\n'
    image = make_image(made_once, kernel, profile + "root: {device: /dev/mtdblock1, type: squashfs}\n")
    [critical] = manifest_of(image).stages
    assert "ofpart" in {member.name for load in critical.loads for member in load.members}
    machine = [tool("qemu-system-arm", package="qemu-system-arm"), "-M", "sabrelite", "-m", "512", "-dtb", str(board)]
    machine += ["-serial", "null", "-serial", "stdio", "-drive", f"if=mtd,format=raw,file={flash}"]
    console = boot_board(kernel, image, machine, "console=ttymxc1,115200")
    rest = after(console, "megamod: root /dev/mtdblock1 squashfs mounted", "/dev/mtdblock1 / squashfs ro")
    after(rest, '"bootloader"', '"root"', "the end")


def test_a_root_on_an_sd_card_is_found_by_its_partuuid(made_once, kernels, tool, tmp_path):
    """Raspberry Pi 3 with Debian's kernel and its own device tree."""
    kernel = kernels("trixie", "arm64")
    [board] = kernel.vmlinuz.parent.parent.glob("usr/lib/linux-image-*/broadcom/bcm2837-rpi-3-b.dtb")
    root = ext4_of_pages(tmp_path / "root.ext4", make_folder(tmp_path / "root", "arm64"), size_mib=48)
    other = tmp_path / "firmware.img"
    other.write_bytes(bytes(4 * _MIB))
    partitions = [Partition(name="firmware", content=other), Partition(name="root", content=root, uuid=PARTUUID)]
    card = write_gpt(tmp_path / "card.img", partitions)
    with card.open("r+b") as file:
        file.truncate(64 * _MIB)  # QEMU's cards have a power of two
    profile = f'name: pi\ncritical: {{modules: ["@dtb:{board}#storage", ext4]}}\n'
    image = make_image(made_once, kernel, profile)
    machine = [tool("qemu-system-aarch64", package="qemu-system-arm"), "-M", "raspi3b", "-dtb", str(board)]
    machine += ["-serial", "null", "-serial", "stdio", "-drive", f"if=sd,format=raw,file={card}"]
    console = boot_board(kernel, image, machine, f"console=ttyS1,115200 root=PARTUUID={PARTUUID} rootwait=60")
    rest = after(console, "megamod: root /dev/mmcblk", "p2 ext4 mounted", "/ ext4 ro")
    after(rest, "the end")


_UBI = "[root]\nmode=ubi\nimage={image}\nvol_id=0\nvol_type=dynamic\nvol_name=root\nvol_flags=autoresize\n"
_NOR = """
name: nor
critical: {modules: [physmap, cfi_cmdset_0001, cmdlinepart, ubi, ubifs]}
root: {device: "ubi0:root", type: ubifs}
"""


def test_a_root_in_nor_flash_comes_up_by_ubi_in_128_mib(made_once, selfbuilt, tool, tmp_path):
    """QEMU's virt board has two CFI chips of 64 MiB, one 128 MiB flash for the kernel; the root has the second half."""
    kernel = selfbuilt("flash")
    volume, ubi = tmp_path / "root.ubifs", tmp_path / "root.ubi"
    block = 256 << 10
    command = [tool("mkfs.ubifs", package="mtd-utils"), "-m", "1", "-e", str(block - 128), "-c", "200", "-x", "lzo"]
    subprocess.run([*command, "-r", str(make_folder(tmp_path / "root", "armhf")), "-o", str(volume)], check=True)
    (tmp_path / "ubi.ini").write_text(_UBI.format(image=volume))
    command = [tool("ubinize", package="mtd-utils"), "-p", "256KiB", "-m", "1", "-o", str(ubi)]
    subprocess.run([*command, str(tmp_path / "ubi.ini")], check=True, capture_output=True)
    flash = write_flash(tmp_path / "flash.img", 64 * _MIB, {0: ubi.read_bytes()})
    image = make_image(made_once, kernel, _NOR)
    machine = [tool("qemu-system-arm", package="qemu-system-arm"), "-M", "virt,highmem=off", "-cpu", "cortex-a15"]
    machine += ["-m", "128", "-serial", "stdio", "-drive", f"if=pflash,unit=1,format=raw,file={flash}"]
    append = "console=ttyAMA0 mtdparts=0.flash:64m(boot),-(rootfs) ubi.mtd=rootfs rw"
    console = boot_board(kernel, image, machine, append)
    rest = after(console, "megamod: root ubi0:root ubifs mounted", "ubi0:root / ubifs rw")
    memory = re.search(r"MemTotal:\s+(\d+) kB", rest)
    assert memory is not None and int(memory[1]) < 128 << 10
    after(rest, '"rootfs"', "the end")
