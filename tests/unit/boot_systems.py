"""Systems as `megamod install` meets them, made up: what a boot loader and a kernel leave below a root."""

from __future__ import annotations

from pathlib import Path

KERNEL = "6.1.0-9-amd64"
TOKEN = "0123456789abcdef0123456789abcdef"
OS_RELEASE = 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nNAME="Debian GNU/Linux"\nID=debian\nVERSION_ID="12"\n'
ENTRY = f"""\
title      Debian GNU/Linux 12 (bookworm)
version    {KERNEL}
machine-id {TOKEN}
sort-key   debian
options    root=UUID=1234 ro quiet rdinit=/megamod-init systemd.machine_id={TOKEN}
linux      /{TOKEN}/{KERNEL}/linux
initrd     /{TOKEN}/{KERNEL}/intel-ucode.img
initrd     /{TOKEN}/{KERNEL}/initrd.img-{KERNEL}
"""


def put(root: Path, files: dict[str, str | bytes]) -> Path:
    """Write *files* below *root*."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def grub_system(root: Path, *, kernel: str = KERNEL) -> Path:
    """Debian with GRUB."""
    files: dict[str, str | bytes] = {
        "boot/grub/grub.cfg": "",
        "usr/sbin/grub-mkconfig": "",
        "etc/kernel/postinst.d/zz-update-grub": "",
        "etc/os-release": OS_RELEASE,
        f"boot/vmlinuz-{kernel}": "kernel",
        f"lib/modules/{kernel}/modules.dep": "",
        "proc/cmdline": "BOOT_IMAGE=/boot/vmlinuz root=UUID=1234 ro quiet\n",
    }
    return put(root, files)


def systemd_boot_system(root: Path, *, kernel: str = KERNEL) -> Path:
    """Debian with systemd-boot on /boot/efi, and the entry that kernel-install has written."""
    files: dict[str, str | bytes] = {
        f"boot/efi/loader/entries/{TOKEN}-{kernel}.conf": ENTRY.replace(KERNEL, kernel),
        f"boot/efi/{TOKEN}/{kernel}/linux": "kernel",
        f"boot/efi/{TOKEN}/{kernel}/initrd.img-{kernel}": "initrd",
        "boot/efi/EFI/systemd/systemd-bootx64.efi": "",
        "usr/bin/kernel-install": "",
        "lib/systemd/systemd-bless-boot": "",
        "etc/machine-id": f"{TOKEN}\n",
        "etc/os-release": OS_RELEASE,
        f"boot/vmlinuz-{kernel}": "kernel",
        f"lib/modules/{kernel}/modules.dep": "",
        "proc/cmdline": "initrd=\\x\\initrd root=UUID=1234 ro quiet\n",
    }
    return put(root, files)
