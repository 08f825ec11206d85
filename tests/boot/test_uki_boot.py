"""A UKI that `megamod build` makes boots under UEFI firmware, as a file that the firmware finds by itself."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.boot.image_fixtures import END, make_image, make_root
from tests.unit.test_uki import make_key

FIRMWARE = Path("/usr/share/OVMF/OVMF_CODE.fd")
PROFILE = """
name: unified
critical: {modules: ["?virtio_pci", virtio_blk, ext4]}
output: {uki: {cmdline: "console=ttyS0 root=/dev/vda panic=-1", KEYS}}
"""
INIT = "show cmdline cat /proc/cmdline\nshow efi ls /sys/firmware/efi\n" + END


@pytest.mark.parametrize("signed", [False, True], ids=["plain", "signed"])
def test_firmware_starts_the_uki_and_the_root_is_mounted(tmp_path, made_once, kernels, signed):
    assert FIRMWARE.exists(), "apt install ovmf"
    kernel = kernels("bookworm")
    keys = make_key(tmp_path) if signed else None
    words = f"key: {keys.key}, cert: {keys.certificate}" if keys else ""
    image = make_image(made_once, kernel, PROFILE.replace(", KEYS", f", {words}" if words else ""))
    drive = tmp_path / "esp/EFI/BOOT"
    drive.mkdir(parents=True)
    (drive / "BOOTX64.EFI").write_bytes(image.read_bytes())
    root = make_root(made_once, INIT)
    done = subprocess.run(
        [
            *("timeout", "1200", "qemu-system-x86_64", "-machine", "q35", "-accel", "tcg", "-m", "1024"),
            *("-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio"),
            *("-drive", f"if=pflash,format=raw,readonly=on,file={FIRMWARE}"),
            *("-drive", f"file=fat:rw:{tmp_path / 'esp'},format=raw,if=none,id=esp"),
            *("-device", "ide-hd,drive=esp,bootindex=0"),
            *("-drive", f"file={root},format=raw,if=none,id=root,snapshot=on", "-device", "virtio-blk-pci,drive=root"),
        ],
        capture_output=True,
        text=True,
        errors="replace",
        stdin=subprocess.DEVNULL,
        check=False,
    )
    print(done.stdout[-4000:])
    assert "megamod: root /dev/vda ext4 mounted" in done.stdout
    assert "[[[ efi\n" in done.stdout.replace("\r", "")
    assert "console=ttyS0 root=/dev/vda panic=-1" in done.stdout
