"""What starts this machine, and where it looks for kernels: GRUB, or systemd-boot with boot entries or UKIs.

systemd-boot counts boots by file names (`NAME+3.conf`, systemd-boot(7), "Boot Counting"): each start takes one off, and
systemd-bless-boot takes the counter away once boot-complete.target is reached. GRUB has no such thing; what stands in
for it is in files/grub-entries.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from megamod.common.errors import MegamodError
from megamod.machine.machine import Machine

Layout = Literal["grub", "bls", "uki"]
"""GRUB's menu; a boot entry (UAPI.1, type 1) with kernel and image; an EFI program with both (type 2)."""

# $BOOT: the extended boot loader partition or the EFI system partition (bootctl(1), kernel-install(8)).
_BOOT = ("boot", "efi", "boot/efi")
_GRUB = ("boot/grub", "boot/grub2")
_MKCONFIG = ("usr/sbin/grub-mkconfig", "usr/sbin/grub2-mkconfig", "usr/bin/grub-mkconfig", "usr/bin/grub2-mkconfig")
_KERNEL_INSTALL = ("usr/bin/kernel-install", "bin/kernel-install")
_BLESS = ("usr/lib/systemd/systemd-bless-boot", "lib/systemd/systemd-bless-boot")
# The variable by which a boot loader names itself (systemd's Boot Loader Interface; GRUB 2.12's module bli has it too).
_LOADER_INFO = "sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
# GRUB cannot write to these (check_writable() in Debian's /etc/grub.d/00_header).
_GRUB_READS_ONLY = ("btrfs", "zfs", "squashfs", "erofs")


@dataclass(frozen=True, slots=True, kw_only=True)
class BootLayout:
    """How a machine boots: *folder* is GRUB's, or $BOOT, relative to the root. *counts* is whether an image that does
    not reach user space is given up by itself; *why_not* says why it is not."""

    kind: Layout
    folder: str
    why_not: str = ""

    @property
    def counts(self) -> bool:
        """Whether the boot loader goes back to what has worked."""
        return not self.why_not


def find_layout(root: Path, wanted: Layout | None = None) -> BootLayout:
    """The layout of the machine below *root*, or the one that is *wanted*; raises MegamodError if there is neither."""
    systemd = next(_boot_folders(root), None)
    grub = next((name for name in _GRUB if (root / name / "grub.cfg").is_file()), None)
    if wanted == "grub" or (wanted is None and grub and (systemd is None or not _started_by_systemd(root))):
        if grub is None or mkconfig(root) is None:
            hint = "megamod install knows GRUB and systemd-boot; another loader can start what megamod build makes"
            raise MegamodError(f"{root / _GRUB[0]}: no grub.cfg that grub-mkconfig makes", hint=hint)
        return BootLayout(kind="grub", folder=grub, why_not=_why_grub_does_not_count(root, grub))
    if systemd is None:
        where = ", ".join(str(root / name) for name in _BOOT)
        hint = "GRUB and systemd-boot are known; another loader can start what megamod build makes"
        raise MegamodError(f"no known boot loader: neither grub.cfg nor systemd-boot in {where}", hint=hint)
    if wanted is None:
        wanted = "uki" if _kernel_install_setting(root, "layout") == "uki" else "bls"
    if not any((root / name).is_file() for name in _KERNEL_INSTALL):
        raise MegamodError("kernel-install: not installed", hint="it renews the boot entries at each kernel's update")
    why_not = "" if any((root / name).is_file() for name in _BLESS) else "systemd-bless-boot is not installed"
    return BootLayout(kind=wanted, folder=systemd, why_not=why_not)


def mkconfig(root: Path) -> str | None:
    """The path of grub-mkconfig as seen from *root*."""
    return next((f"/{name}" for name in _MKCONFIG if (root / name).is_file()), None)


def command_line(root: Path) -> str:
    """What kernel-install puts on a kernel's command line: its configuration, else that of the running kernel."""
    for name in ("etc/kernel/cmdline", "usr/lib/kernel/cmdline"):
        if text := Machine(root=root).text(name):
            return " ".join(text.split())
    words = Machine(root=root).text("proc/cmdline").split()
    if not words:
        hint = "write the kernel command line there, with root="
        raise MegamodError(f"{root / 'etc/kernel/cmdline'}: not there, and there is no /proc/cmdline", hint=hint)
    return " ".join(word for word in words if not word.startswith(("BOOT_IMAGE=", "initrd=")))


def entry_token(root: Path) -> str:
    """How the files of this system are called in $BOOT: /etc/kernel/entry-token, else the machine ID."""
    machine = Machine(root=root)
    token = machine.text("etc/kernel/entry-token").strip() or machine.text("etc/machine-id").strip()
    if not re.fullmatch(r"[\w.+-]+", token):
        raise MegamodError(
            f"{root / 'etc/machine-id'}: it has no machine ID", hint="systemd-machine-id-setup makes one"
        )
    return token


def os_release(root: Path) -> dict[str, str]:
    """os-release(5) of the system below *root*."""
    machine = Machine(root=root)
    text = machine.text("etc/os-release") or machine.text("usr/lib/os-release")
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return {name.strip(): value.strip().strip("\"'") for name, _equals, value in pairs}


def newest_kernel(root: Path) -> str:
    """The release of the newest kernel below *root* that has modules and an image."""
    found = []
    for folder in ("lib/modules", "usr/lib/modules"):
        for release in Machine(root=root).entries(folder):
            if kernel_file(root, release) is not None:
                found.append(release)
    if not found:
        raise MegamodError(f"{root / 'lib/modules'}: no kernel with an image in /boot", hint="name one with -k")
    return max(found, key=_version_key)


def kernel_file(root: Path, release: str) -> str | None:
    """The image of the kernel *release*, relative to *root*."""
    places = (f"boot/vmlinuz-{release}", f"boot/vmlinux-{release}", f"usr/lib/modules/{release}/vmlinuz")
    return next((name for name in (*places, f"lib/modules/{release}/vmlinuz") if (root / name).is_file()), None)


def _version_key(release: str) -> list[tuple[int, int, str]]:
    # 6.1.0-rc1 is older than 6.1.0; a number is newer than the end.
    parts = re.findall(r"\d+|[a-z]+", release.lower())
    return [(0, 0, "") if part == "rc" else (2, int(part), "") if part.isdigit() else (1, 0, part) for part in parts]


def _boot_folders(root: Path) -> Iterator[str]:
    for name in _BOOT:
        folder = root / name
        if (folder / "loader/entries").is_dir() or (folder / "EFI/systemd").is_dir():
            yield name


def _started_by_systemd(root: Path) -> bool:
    """Of two boot loaders the one that has started this machine counts; systemd-boot where none says so."""
    try:
        # Four bytes of attributes, then UTF-16.
        text = (root / _LOADER_INFO).read_bytes()[4:].decode("utf-16-le", "replace")
    except OSError:
        return False
    return text.startswith("systemd-boot")


def _kernel_install_setting(root: Path, name: str) -> str:
    """A setting of kernel-install's install.conf: the first file that is there counts (kernel-install(8))."""
    for file in ("etc/kernel/install.conf", "run/kernel/install.conf", "usr/lib/kernel/install.conf"):
        text = Machine(root=root).text(file)
        if text:
            values = re.findall(rf"^\s*{name}\s*=\s*[\"']?([\w-]*)", text, re.MULTILINE)
            return values[-1] if values else ""
    return ""


def _why_grub_does_not_count(root: Path, folder: str) -> str:
    """GRUB keeps in grubenv which entry it has tried; on some file systems and devices it cannot."""
    mounts = Machine(root=root).mounts()
    where = f"/{folder}"
    inside = [mount for mount in mounts if f"{where}/".startswith(f"{mount.point.rstrip('/')}/")]
    if not inside:
        return ""
    mount = max(reversed(inside), key=lambda mount: len(mount.point))
    if mount.fstype in _GRUB_READS_ONLY:
        return f"GRUB cannot write to {mount.fstype}, on which {where} lies"
    if mount.source.startswith(("/dev/mapper/", "/dev/md", "/dev/dm-")):
        return f"GRUB cannot write to {mount.source}, on which {where} lies"
    return ""
