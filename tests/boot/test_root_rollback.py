"""Two slots and a boot loader that counts: systemd-boot under OVMF, and `on-failure: reboot` in the image.

https://uapi-group.org/specifications/specs/boot_loader_specification/#boot-counting: an entry NAME+3.conf is renamed
NAME+2-1.conf when it is tried, and at 0 others go before it. Nobody blesses an entry here: the guest powers off.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.boot.efi_guests import SYSTEMD_BOOT, boot_disk, need_firmware
from tests.boot.image_fixtures import make_image
from tests.boot.loader_images import POWER_OFF, after
from tests.boot.partitioned_disks import ESP_TYPE, Partition, ext4_of_pages, write_gpt

PROFILE = """
name: slots
critical: {modules: [virtio_pci, virtio_blk, ext4, vfat]}
root: {device: "PARTLABEL=rootfs_${slot}", slot-from: rauc.slot, on-failure: reboot}
"""
_ENTRY = (
    "title slot {slot}\nsort-key slots\nversion {version}\nlinux /vmlinuz\ninitrd /image\n"
    "options console=ttyS0 panic=-1 {words}\n"
)

pytestmark = pytest.mark.slow


def make_esp(path: Path, files: dict[str, Path | str], tool) -> Path:
    """A FAT with these files."""
    with path.open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run([tool("mkfs.vfat", package="dosfstools"), str(path)], check=True, capture_output=True)
    for name, content in files.items():
        folder = ""
        for part in name.split("/")[:-1]:
            folder += f"/{part}"
            subprocess.run(["mmd", "-D", "s", "-i", str(path), f"::{folder}"], check=False, capture_output=True)
        source = path.with_name("copied")
        if isinstance(content, str):
            source.write_text(content)
        else:
            shutil.copyfile(content, source)
        command = [tool("mcopy", package="mtools"), "-o", "-i", str(path), str(source), f"::/{name}"]
        subprocess.run(command, check=True, capture_output=True)
    return path


def entries_of(disk: Path) -> list[str]:
    """The names of the boot entries on the disk, whose first partition is the ESP."""
    command = ["mdir", "-b", "-i", f"{disk}@@1M", "::/loader/entries"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return sorted(line.rpartition("/")[2] for line in text.splitlines())


def test_a_slot_that_does_not_boot_is_left_for_the_other_one(made_once, kernels, make_root, tool, tmp_path):
    need_firmware()
    kernel = kernels("bookworm")
    files: dict[str, Path | str] = {
        "EFI/BOOT/BOOTX64.EFI": SYSTEMD_BOOT,
        "loader/loader.conf": "timeout 0\n",
        # systemd-boot takes the newest version first.
        "loader/entries/a+3.conf": _ENTRY.format(slot="a", version=2, words="rauc.slot=a rootwait=1"),
        "loader/entries/b.conf": _ENTRY.format(slot="b", version=1, words="rauc.slot=b"),
        "vmlinuz": kernel.vmlinuz,
        "image": make_image(made_once, kernel, PROFILE),
    }
    broken = tmp_path / "broken"
    broken.write_bytes(bytes(8 << 20))
    good = ext4_of_pages(tmp_path / "b.ext4", make_root("echo this is slot b" + POWER_OFF), size_mib=16)
    disk = write_gpt(
        tmp_path / "disk.img",
        [
            Partition(name="esp", content=make_esp(tmp_path / "esp.img", files, tool), kind=ESP_TYPE),
            Partition(name="rootfs_a", content=broken),
            Partition(name="rootfs_b", content=good),
        ],
    )
    console, _result = boot_disk(disk, tmp_path, timeout=500, restart=True)
    failure = (
        "megamod: error: root PARTLABEL=rootfs_a: /dev/vda2 cannot be mounted",
        "the machine is restarted, as the image wants it",
    )
    after(console, *failure, *failure, *failure, "megamod: root /dev/vda3 ext4 mounted", "this is slot b")
    assert console.count(failure[0]) == 3
    assert entries_of(disk) == ["a+0-3.conf", "b.conf"]
