"""Guests that start as machines do: by UEFI firmware, from what is on their disk."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from megamod.boot.qemu import QemuResult, run_command
from megamod.common.host import find_program
from tests.conftest import missing

FIRMWARE = Path("/usr/share/OVMF")
SYSTEMD_BOOT = Path("/usr/lib/systemd/boot/efi/systemd-bootx64.efi")


def need_firmware() -> None:
    """Skip the test where OVMF or systemd-boot is not installed."""
    for path, package in ((FIRMWARE / "OVMF_CODE_4M.fd", "ovmf"), (SYSTEMD_BOOT, "systemd-boot-efi")):
        if not path.exists():
            missing(f"{path} (apt install {package})")


def boot_disk(
    disk: Path, work: Path, *, timeout: float, until: str | None = None, restart: bool = False
) -> tuple[str, QemuResult]:
    """The console of a guest that boots from *disk*, which it may change; *work* keeps the firmware's variables.

    With *restart* it may restart itself, else that is its end.
    """
    variables = work / "vars.fd"
    if not variables.exists():
        shutil.copyfile(FIRMWARE / "OVMF_VARS_4M.fd", variables)
    command = [find_program("qemu-system-x86_64", package="qemu-system-x86"), "-machine", "q35", "-accel", "tcg"]
    command += [
        "-m",
        "1024",
        "-nodefaults",
        "-display",
        "none",
        "-serial",
        "stdio",
        *([] if restart else ["-no-reboot"]),
    ]
    command += ["-drive", f"if=pflash,format=raw,readonly=on,file={FIRMWARE / 'OVMF_CODE_4M.fd'}"]
    command += ["-drive", f"if=pflash,format=raw,file={variables}"]
    command += ["-drive", f"file={disk},format=raw,if=none,id=disk", "-device", "virtio-blk-pci,drive=disk,bootindex=1"]
    result = run_command(command, timeout=timeout, until=until)
    console = re.sub(r"\x1b\[[0-9;=?]*[A-Za-z]", "", result.console)
    print("\n".join(console.splitlines()[-80:]))
    return console, result
