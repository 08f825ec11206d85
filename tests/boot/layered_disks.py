"""Disks with layers below the root (LUKS on LVM, RAID), made and opened in a guest by the programs of Debian packages.

A guest needs no udev for this: the programs make their device nodes themselves when DM_DISABLE_UDEV is set.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from elftools.elf.elffile import ELFFile

from megamod.boot.debian import fetch_package_files
from megamod.boot.disk import host_busybox
from megamod.common.compression import read_module_bytes
from megamod.common.errors import Location
from megamod.common.host import cache_folder, find_program
from megamod.image.cpio import Entry
from megamod.modules.tree import ModuleTree
from megamod.profile.model import Profile, Selector, Stage
from megamod.select.select import select

SUITE = "bookworm"
_LIBRARIES = ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu", "usr/lib", "lib")
_FILE = stat.S_IFREG | 0o755
KEY = b"not a secret"


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """A machine with a root to open. *qemu*: options that attach its disks, with `{0}`, `{1}` for their files; *make*
    and *open* are shell commands that end in *root* being there; *programs* are (package or "", program)."""

    name: str
    disks: int
    qemu: tuple[str, ...]
    make: str
    open: str
    root: str
    filesystem: str
    modules: tuple[str, ...]
    programs: tuple[tuple[str, str], ...]


LAPTOP = Storage(
    name="laptop",
    disks=1,
    qemu=(
        *("-machine", "q35", "-device", "pcie-root-port,id=port1", "-drive", "file={0},format=raw,if=none,id=d0"),
        *("-device", "nvme,serial=one,drive=d0,bus=port1", "-device", "qemu-xhci", "-device", "usb-kbd"),
        *("-device", "intel-hda", "-device", "hda-duplex", "-device", "e1000e", "-vga", "std"),
    ),
    make=(
        "lvm pvcreate -y /dev/nvme0n1p1 && lvm vgcreate vg /dev/nvme0n1p1 && lvm lvcreate -y -n root -l 100%FREE vg\n"
        "cryptsetup luksFormat -q --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file /key "
        "/dev/vg/root\n"
        "cryptsetup open --key-file /key /dev/vg/root root && mkfs.ext4 -q /dev/mapper/root\n"
    ),
    open=("lvm vgchange -q -ay && lvm vgmknodes\ncryptsetup open --key-file /key /dev/vg/root root\n"),
    root="/dev/mapper/root",
    filesystem="ext4",
    modules=(
        *(
            "nvme",
            "dm_crypt",
            "xts",
            "ecb",
            "aes_generic",
            "sha256_generic",
            "algif_skcipher",
            "ext4",
            "crc32c_generic",
        ),
        *("xhci_pci", "usbhid", "hid_generic", "atkbd", "i8042", "snd_hda_intel", "e1000e", "bochs"),
    ),
    programs=(("cryptsetup-bin", "sbin/cryptsetup"), ("lvm2", "sbin/lvm"), ("", "mkfs.ext4")),
)
SERVER = Storage(
    name="server",
    disks=2,
    qemu=(
        *("-machine", "q35", "-drive", "file={0},format=raw,if=none,id=d0", "-device", "ide-hd,drive=d0,bus=ide.0"),
        *("-drive", "file={1},format=raw,if=none,id=d1", "-device", "ide-hd,drive=d1,bus=ide.1"),
        *("-device", "e1000e", "-device", "i6300esb", "-device", "usb-ehci", "-device", "usb-kbd"),
    ),
    make=(
        "mdadm --create /dev/md0 --run --level=1 --raid-devices=2 --metadata=1.2 --assume-clean --bitmap=none "
        "/dev/sda1 /dev/sdb1 && mkfs.xfs -q -f /dev/md0\n"
    ),
    open="mdadm --assemble /dev/md0 /dev/sda1 /dev/sdb1\n",
    root="/dev/md0",
    filesystem="xfs",
    modules=(
        *("ahci", "sd_mod", "raid1", "xfs", "crc32c_generic", "e1000e", "ehci_pci", "usbhid", "hid_generic"),
        *("atkbd", "i8042", "i2c_i801", "lpc_ich"),
    ),
    programs=(("mdadm", "sbin/mdadm"), ("", "mkfs.xfs")),
)


def make_disk_file(path: Path, *, size_mib: int = 400) -> Path:
    """A sparse disk with one partition of type Linux from the first mebibyte to the end."""
    sectors = size_mib * 2048
    entry = bytes([0, 0, 2, 0, 0x83, 0xFF, 0xFF, 0xFF]) + (2048).to_bytes(4, "little")
    entry += (sectors - 2048).to_bytes(4, "little")
    with path.open("wb") as file:
        file.truncate(sectors * 512)
        file.seek(446)
        file.write(entry)
        file.seek(510)
        file.write(b"\x55\xaa")
    return path


def program_entries(programs: Iterable[tuple[str, str]]) -> list[Entry]:
    """Busybox, the key, and *programs* with the libraries that they need, for an image."""
    entries = [
        Entry(path="bin/busybox", mode=_FILE, data=host_busybox().read_bytes()),
        Entry(path="key", mode=stat.S_IFREG | 0o600, data=KEY),
        *(Entry(path=name, mode=stat.S_IFDIR | 0o755) for name in ("bin", "lib64", "mnt", "run", "etc", "tmp", "var")),
    ]
    wanted = list(programs)
    packages = ["libcryptsetup12", "libaio1", "libdevmapper-event1.02.1", "libargon2-1", "libjson-c5", "libpopt0"]
    # What other programs need, those have brought to this machine.
    packages += ["libdevmapper1.02.1", "libedit2", "libbsd0", "libmd0", "libssl3"]
    trees = [_package(name) for name in dict.fromkeys([p for p, _program in wanted if p] + packages)]
    queue: list[Path] = []
    for package, program in wanted:
        path = _package(package) / program if package else Path(find_program(program, package=program))
        entries.append(Entry(path=f"bin/{Path(program).name}", mode=_FILE, data=path.read_bytes()))
        queue.append(path)
    done: set[str] = set()
    for path in queue:
        for name in _needed(path):
            if name in done:
                continue
            done.add(name)
            library = _library(name, [*trees, Path("/")])
            folder = "lib64" if name.startswith("ld-linux") else "lib/x86_64-linux-gnu"
            entries.append(Entry(path=f"{folder}/{name}", mode=_FILE, data=library.read_bytes()))
            queue.append(library)
    return entries


def _package(name: str) -> Path:
    return fetch_package_files(name, SUITE, architecture="amd64", cache=cache_folder())


def _needed(path: Path) -> list[str]:
    with path.open("rb") as stream:
        dynamic = ELFFile(stream).get_section_by_name(".dynamic")
        needed = [str(tag.needed) for tag in dynamic.iter_tags() if tag.entry.d_tag == "DT_NEEDED"]
    return [*needed, "ld-linux-x86-64.so.2"]


def _library(name: str, roots: Iterable[Path]) -> Path:
    for root in roots:
        for folder in (*_LIBRARIES, "lib64"):
            if (root / folder / name).exists():
                return (root / folder / name).resolve()
    raise AssertionError(f"{name}: in none of the packages, and not on this machine")


def stock_modules(tree: ModuleTree, names: Iterable[str]) -> list[tuple[str, bytes]]:
    """(name, plain bytes) of the modules *names* and all that they need, in an order in which they can be loaded."""
    place = Location(file="test", line=1, column=1)
    selectors = tuple(Selector(text=f"?{name}", location=place) for name in names)
    critical = Stage(name="critical", selectors=selectors, trigger=None)
    [stage] = select(Profile(name="test", source="test", critical=critical), tree).stages
    order: list[str] = []
    for module in sorted(stage.modules, key=lambda module: module.rank):
        order += [need for need in (*tree.modules[module.name].depends, module.name) if need not in order]
    return [(name, read_module_bytes(tree.modules[name].path)) for name in order]


def install_entries(storage: Storage, tree: ModuleTree, after: str) -> list[Entry]:
    """An image with stock modules whose init makes the root of *storage*, mounts it at /mnt and runs *after*."""
    modules = stock_modules(tree, storage.modules)
    script = "".join(f"insmod /modules/{name}.ko\n" for name, _data in modules)
    script = (
        "#!/bin/busybox sh\n/bin/busybox --install -s /bin\nexport PATH=/bin DM_DISABLE_UDEV=1\n"
        "mount -t devtmpfs dev /dev; mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t tmpfs run /run\n"
        f"{script}sleep 2\n{storage.make}"
        f"mount -t {storage.filesystem} {storage.root} /mnt\n"
        "mkdir -p /mnt/bin /mnt/proc /mnt/sys /mnt/dev; cp /bin/busybox /mnt/bin/\n"
        f"echo marker of {storage.name} >/mnt/marker\n{after}\n"
        "umount /mnt/sys /mnt/proc 2>/dev/null; umount /mnt; sync; poweroff -f\n"
    )
    return [
        *program_entries(storage.programs),
        *(Entry(path=name, mode=stat.S_IFDIR | 0o755) for name in ("dev", "proc", "sys", "modules")),
        *(Entry(path=f"modules/{name}.ko", mode=_FILE, data=data) for name, data in modules),
        Entry(path="init", mode=_FILE, data=script.encode()),
    ]


def open_script(storage: Storage) -> bytes:
    """The program that the loader executes: opens the root of *storage*, shows its marker, powers off."""
    return (
        "#!/bin/busybox sh\n/bin/busybox --install -s /bin\nexport PATH=/bin DM_DISABLE_UDEV=1\n"
        f"sleep 1\n{storage.open}mount -o ro -t {storage.filesystem} {storage.root} /mnt && cat /mnt/marker\n"
        "cat /proc/mounts | grep /mnt; cut -d' ' -f1 /proc/modules; poweroff -f\n"
    ).encode()
