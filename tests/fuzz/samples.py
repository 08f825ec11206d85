"""Good input for every command, small and made here: a folder of files that `fuzz_commands.py` damages copies of."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import shutil
import stat
import struct
from collections.abc import Iterable
from pathlib import Path

import yaml

from megamod.build import recipe
from megamod.build.manifest import MANIFEST_PATH
from megamod.common.compression import compress
from megamod.common.flat_tree import TreeNode, tree_bytes, words_bytes
from megamod.common.progress import Steps
from megamod.image.cpio import Entry, write_cpio
from megamod.image.fit import FitKernel, make_fit
from megamod.image.signing.sign import Signer
from megamod.modules.tree import open_tree
from megamod.prelink.link import prelink_files
from megamod.prelink.options import PrelinkOptions
from megamod.profile.schema import load_profile
from tests.fuzz.fuzz_prelink import small_sets
from tests.unit.boot_logs import LOG, PLAIN, STATUS
from tests.unit.boot_systems import ENTRY, KERNEL, OS_RELEASE, TOKEN, put
from tests.unit.machine_records import ALIASES, MODULES, fake_machine
from tests.unit.machine_records import disk as disk_record
from tests.unit.machine_records import mounted as mounts_record
from tests.unit.module_trees import RELEASE, make_tree
from tests.unit.signing_keys import make_pair

PROFILE = {
    "name": "fuzz",
    "critical": {"modules": ["core", "?absent", "alias:pci:v00001AF4*"]},
    "deferred": [
        {"name": "late", "modules": ["disk", "=kernel/drivers/misc"], "after": {"path": "/run/x", "timeout": "5s"}},
        {"name": "last", "modules": ["@dtb:board.dtb#storage"], "after": "userspace"},
    ],
    "options": {"disk": {"debug": 1}},
    "root": {"from": "cmdline"},
    "compress": "zstd",
    "unwind": "keep",
    "files": [{"path": "/etc/secret", "source": "board.dtb", "mode": "0600"}],
    "exclude": ["busy"],
}
BOARD_ALIASES = ("of:N*T*Cvendor,mmcC* core", "of:N*T*Cvendor,mmc core")


class Nowhere:
    """A stream for progress lines that nobody reads."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return False

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        return


def make_samples(folder: Path) -> None:
    """Make the files and folders below *folder*, which is new."""
    folder.mkdir(parents=True)
    key, certificate = make_pair(folder)
    modules = {f"{name}.ko": data for files in small_sets()[:2] for name, data in files.items()}
    for name, data in modules.items():
        (folder / name).write_bytes(data)
    (folder / "board.dtb").write_bytes(board())
    _tree(folder / "root", modules)
    (folder / "profile.yaml").write_text(yaml.safe_dump(PROFILE, sort_keys=False))
    (folder / "plain.yaml").write_text(
        yaml.safe_dump({"critical": {"modules": ["core"]}, "deferred": [{"name": "late", "modules": ["disk"]}]})
    )
    (folder / "board.yaml").write_text(yaml.safe_dump({"critical": {"modules": ["@dtb:board.dtb"]}}))
    _linked(folder)
    signed = Signer(key=key, certificate=certificate, digest="sha256").sign(modules["core.ko"])
    (folder / "signed.ko").write_bytes(signed)
    _image(folder)
    _kernels(folder)
    for name, text in (("boot.log", LOG), ("plain.log", PLAIN), ("status.json", json.dumps(STATUS))):
        (folder / name).write_text(text)
    (folder / "oops.txt").write_text(OOPS)
    _machine(folder / "machine")
    _systems(folder)


OOPS = """\
[    5.000000] BUG: kernel NULL pointer dereference, address: 0000000000000010
[    5.000001] Modules linked in: megamod_fuzz(E) snd
[    5.000002] RIP: 0010:init_module+0x10/0x20 [megamod_fuzz]
[    5.000003]  ? do_init+0x1/0x30 [megamod_fuzz]
[    5.000004]  megamod_fuzz+0x18/0x1000
"""


def board() -> bytes:
    """A board with a memory card's controller, its clock, a disabled node and an alias."""
    root = TreeNode("")
    root.put(compatible="vendor,board")
    root.child("aliases").put(mmc0="/soc/mmc@2")
    soc = root.child("soc")
    clock, card, off = (soc.child(name) for name in ("clock@1", "mmc@2", "usb@3"))
    clock.put(compatible="vendor,clock")
    clock.properties |= {"phandle": words_bytes(1), "#clock-cells": words_bytes(1)}
    card.put(compatible="vendor,mmc")
    card.properties |= {"clocks": words_bytes(1, 7), "vmmc-supply": words_bytes(1)}
    off.put(compatible="vendor,usb", status="disabled")
    return tree_bytes(root)


def _tree(root: Path, modules: dict[str, bytes]) -> None:
    """The machine records' modules, and the real ones among them."""
    listed: dict[str, Iterable[str]] = dict(MODULES)
    listed |= {f"kernel/fuzz/{name}": [] for name in modules}
    listed["kernel/fuzz/disk.ko"] = ["kernel/fuzz/core.ko"]
    folder = make_tree(root, listed, alias=[*ALIASES, *BOARD_ALIASES], softdep=["disk pre: core"])
    for name, data in modules.items():
        (folder / "kernel/fuzz" / name).write_bytes(data)


def _linked(folder: Path) -> None:
    made = prelink_files([folder / "core.ko", folder / "disk.ko"], PrelinkOptions(name="megamod_fuzz"))
    (folder / "fuzz.ko").write_bytes(made.data)
    (folder / "fuzz.map").write_text(json.dumps(made.map))


def _image(folder: Path) -> None:
    """An image as `megamod build` makes it, with the loader replaced by a few bytes, and one of somebody else."""
    loader_binary, ctl_binary = recipe.loader_binary, recipe.ctl_binary
    try:
        # Compiling the loader is not what is looked at; both are an ELF header of x86_64.
        recipe.loader_binary = recipe.ctl_binary = lambda _arch: ELF  # type: ignore[assignment]
        tree = open_tree(str(folder / "root/lib/modules" / RELEASE))
        steps = Steps(Nowhere(), quiet=True)  # type: ignore[arg-type]
        image, listed = folder / "image", folder / "image.map"
        recipe.build_image(load_profile(folder / "plain.yaml"), tree, image, steps=steps, map_file=listed)
    finally:
        recipe.loader_binary, recipe.ctl_binary = loader_binary, ctl_binary
    entries = [
        Entry(path="bin/sh", mode=stat.S_IFLNK | 0o777, data=b"busybox"),
        Entry(path="bin/busybox", mode=stat.S_IFREG | 0o755, data=ELF),
        Entry(path="dev/console", mode=stat.S_IFCHR | 0o600, rdev=(5, 1)),
        Entry(path="etc/name", mode=stat.S_IFREG | 0o600, data=b"x" * 500),
        Entry(path="init", mode=stat.S_IFREG | 0o755, data=ELF),
    ]
    plain = write_cpio(entries, mtime=0)
    (folder / "plain.cpio").write_bytes(plain)
    (folder / "arm64.cpio").write_bytes(
        write_cpio([Entry(path="init", mode=stat.S_IFREG | 0o755, data=ELF[:18] + b"\xb7\0" + ELF[20:])], mtime=0)
    )
    early = write_cpio([Entry(path="kernel/x86/microcode/GenuineIntel.bin", mode=0o100644, data=b"m" * 64)], mtime=0)
    for method in ("gzip", "xz", "zstd", "lz4"):
        (folder / f"image.{method}").write_bytes(early + compress(plain, method))
    assert MANIFEST_PATH.encode() in (folder / "plain.cpio").read_bytes() or image.is_file()


ELF = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 2, 0x3E, 1, 0x400000, 0, 0, 0, 64, 56, 0, 64, 0, 0)


def efi_program(machine: int, *, sections: Iterable[bytes] = (b".text", b".data"), room: int = 1024) -> bytes:
    """The smallest PE32+ file that firmware would look at: DOS header, COFF header, optional header, section table."""
    names = list(sections)
    coff = struct.pack("<4sHHIIIHH", b"PE\0\0", machine, len(names), 0, 0, 0, 112 + 16 * 8, 0x206)
    optional = struct.pack("<HBBIIIII", 0x20B, 2, 0, 512, 0, 0, 4096, 4096)
    optional += struct.pack("<QIIHHHHHHIIIIHHQQQQII", 0, 4096, 512, *[0] * 6, 0, 4096 * 9, room, 0, 10, 0, *[0] * 5, 16)
    optional += bytes(16 * 8)
    table = b"".join(
        struct.pack("<8sIIIIIIHHI", name, 512, 4096 * (n + 1), 512, room + 512 * n, 0, 0, 0, 0, 0x60000020)
        for n, name in enumerate(names)
    )
    head = b"MZ" + bytes(0x3A) + struct.pack("<I", 0x40) + coff + optional + table
    return head.ljust(room, b"\0") + b"".join(name.ljust(512, b"\xcc") for name in names)


def _kernels(folder: Path) -> None:
    """A stub, a bzImage with an EFI entry, an Image of arm64, one packed by EFI's zboot, and a zImage of arm."""
    (folder / "stub.efi").write_bytes(efi_program(0x8664))
    (folder / "vmlinuz.efi").write_bytes(efi_program(0x8664, sections=[b".text"]))
    image = bytearray(4096)
    image[0x38:0x3C] = b"ARM\x64"
    (folder / "Image").write_bytes(image)
    packed = compress(bytes(image), "gzip")
    zboot = struct.pack("<4s4sII8s32s", b"MZ\0\0", b"zimg", 64, len(packed), b"", b"gzip").ljust(64, b"\0") + packed
    (folder / "zboot.efi").write_bytes(zboot)
    zimage = bytearray(256)
    zimage[0x24:0x28] = bytes.fromhex("18286f01")
    inner = bytes(image) + b"".join(b"\0%s\0" % name for name in (b"param_ops_int", b"kfree", b"jiffies", b"memcpy"))
    (folder / "zImage").write_bytes(bytes(zimage) + gzip.compress(inner, mtime=0))
    (folder / "uImage").write_bytes(
        struct.pack(">4s3I", b"\x27\x05\x19\x56", 0, 0, len(image)).ljust(64, b"\0") + image
    )
    android = struct.pack("<8s7I2I", b"ANDROID!", len(packed), 0, 0, 0, 0, 0, 0, 2048, 0).ljust(2048, b"\0")
    (folder / "boot.img").write_bytes(android + packed.ljust(4096, b"\0"))
    tree = make_fit(FitKernel(data=bytes(image), arch="arm64"), b"ramdisk", [("board.dtb", board())], None)
    (folder / "kernel.itb").write_bytes(tree)
    setup = bytearray(1024)
    setup[0x1F1] = 1
    setup[0x202:0x206] = b"HdrS"
    payload = gzip.compress(ELF, mtime=0)
    struct.pack_into("<II", setup, 0x248, 0, len(payload))
    (folder / "bzImage").write_bytes(bytes(setup) + payload)


SYSTEMS = ("system", "hooked", "deployed", "booted")
"""Systems with the tree's kernel: as it was, with the hook of initramfs-tools, with a deployment, with an own image."""


def _systems(folder: Path) -> None:
    """Only where it is root's may root read a profile; so it lies in the system."""
    system = folder / "system"
    shutil.copytree(folder / "root", system, copy_function=os.link)
    for name in ("usr/share/initramfs-tools", "etc/initramfs-tools/hooks", "etc/default/grub.d", "usr/sbin", "run"):
        (system / name).mkdir(parents=True, exist_ok=True)
    loader: dict[str, str | bytes] = {
        f"boot/efi/loader/entries/{TOKEN}-{RELEASE}.conf": ENTRY.replace(KERNEL, RELEASE),
        f"boot/efi/{TOKEN}/{RELEASE}/linux": "kernel",
        "boot/efi/EFI/systemd/systemd-bootx64.efi": "",
        "boot/grub/grub.cfg": f"menuentry 'x' {{\n linux /vmlinuz-{RELEASE} root=/dev/vda1 rdinit=/megamod-init\n}}\n",
        "usr/sbin/grub-mkconfig": ". /etc/default/grub.d/*.cfg\n",
        "usr/bin/kernel-install": "",
        "usr/lib/kernel/install.d/90-loaderentry.install": "",
        "usr/lib/systemd/systemd-bless-boot": "",
        "etc/machine-id": f"{TOKEN}\n",
        "etc/os-release": OS_RELEASE,
        "etc/kernel/cmdline": "root=UUID=1234 ro quiet\n",
        "etc/kernel/install.conf": "layout=bls\n",
        "etc/megamod/own.yaml": (folder / "plain.yaml").read_bytes(),
        "etc/modprobe.d/options.conf": "options disk debug=1\nblacklist busy\n",
        "proc/cmdline": "root=UUID=1234 ro quiet\n",
        f"boot/vmlinuz-{RELEASE}": (folder / "bzImage").read_bytes(),
        f"boot/initrd.img-{RELEASE}": (folder / "plain.cpio").read_bytes(),
        "image/init": "#!/bin/sh\n",
        f"image/lib/modules/{RELEASE}/kernel/fuzz/core.ko": (folder / "core.ko").read_bytes(),
        f"image/lib/modules/{RELEASE}/modules.builtin": "",
    }
    put(system, loader)
    # What each of the others has been through.
    own = ("-k", RELEASE, "-p")
    through = {
        "hooked": [("hook", "install", "initramfs-tools")],
        "deployed": [("deploy", *own, "{}/etc/megamod/own.yaml")],
        "booted": [("install", "--layout", "bls", *own, "{}/etc/megamod/own.yaml", "--quiet")],
    }
    for name, commands in through.items():
        shutil.copytree(system, folder / name, copy_function=os.link)
        for words in commands:
            _megamod([word.format(folder / name) for word in words] + ["--root", str(folder / name)])


def _megamod(words: list[str]) -> None:
    from megamod.cli.main import cli
    from megamod.hooks.deploy import deployment

    pairs = [(recipe, name) for name in ("loader_binary", "ctl_binary")] + [(deployment, "ctl_binary")]
    kept = [getattr(module, name) for module, name in pairs]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            for module, name in pairs:
                setattr(module, name, lambda _arch: ELF)
            cli.main(words, prog_name="megamod", standalone_mode=False)
        finally:
            for (module, name), function in zip(pairs, kept, strict=True):
                setattr(module, name, function)


def _machine(folder: Path) -> None:
    """A recorded machine with one disk, as `detect --record` writes it."""
    fake_machine(folder, disk_record() + mounts_record("/ 259:0 ext4 /dev/nvme0n1"))
