"""Images and disks for the loader's boot tests: hand-written plans over a kernel's stock modules.

No profile takes part, so what these tests find is the loader's own.
"""

from __future__ import annotations

import lzma
import re
import stat
import struct
import uuid
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from megamod.boot.disk import host_busybox
from megamod.image.archive import write_image
from megamod.image.cpio import Entry
from megamod.loader.programs import ctl_binary, loader_binary
from megamod.prelink.link import prelink_files
from megamod.prelink.options import PrelinkOptions

UUID = "5f0c2d3a-8a54-4f0e-9c8e-0123456789ab"
LABEL = "megaroot"
PARTUUID = "00112233-4455-6677-8899-aabbccddeeff"
PARTLABEL = "the-root"

# What a root on a virtio disk with ext4 needs; crc32c is a softdep, which modules.dep does not have.
DISK_MODULES = ("virtio_pci", "virtio_blk", "crc32c_generic", "ext4")

_FOLDERS = frozenset(("dev", "proc", "sys", "run"))

# The end of every guest init; without it the guest would panic and the test still end, but not in order.
POWER_OFF = "\nsync\npoweroff -f\n"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A plan in the making: lines, and the files that they name. Ids are handed out as the loader counts them."""

    modules: Path
    lines: list[str] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    ids: dict[str, int] = field(default_factory=dict)

    def stage(self, name: str, kind: str, argument: str = "-", timeout: int = 0) -> Plan:
        self.lines.append(f"stage {name} {kind} {argument} {timeout}")
        return self

    def singles(self, *names: str) -> Plan:
        """Singles of these modules and of all that they depend on and that is not in the plan yet."""
        for name in names:
            for module in (*dependencies(self.modules, name), name):
                if module not in self.ids:
                    self.single(module)
        return self

    def single(self, name: str, *arguments: str, data: bytes | None = None, needs: Iterable[str] | None = None) -> Plan:
        """One single, its needs being those of its dependencies that are in the plan; *data* in place of the file."""
        wanted = dependencies(self.modules, name) if needs is None else needs
        ids = [str(self.ids[other]) for other in wanted if other in self.ids]
        self.files[f"megamod/{name}.ko"] = read_module(self.modules, name) if data is None else data
        self.lines.append(" ".join(["single", f"/megamod/{name}.ko", name, *ids]))
        self.lines.extend(f"argument {text}" for text in arguments)
        self.ids[name] = len(self.ids)
        return self

    def merged(self, load: str, *names: str, results: bool = True, data: bytes | None = None) -> Plan:
        """A megamodule of these modules, dependencies not added, *data* in place of its file.

        With ``fallback modules`` the originals come along.
        """
        options = PrelinkOptions(name=load, unwind="drop", symbols="trim", results=results, allow_taint=True)
        module = prelink_files([module_path(self.modules, name) for name in names], options)
        assert module.has_results == results, f"{load}: no CRCs for the glue beside {names[0]}"
        self.files[f"megamod/{load}.ko"] = module.data if data is None else data
        self.lines.append(f"merged /megamod/{load}.ko {load} {int(results)}")
        for member in module.members:
            ids = [str(self.ids[other]) for other in dependencies(self.modules, member.name) if other in self.ids]
            self.lines.append(" ".join(["member", member.name, *ids]))
            self.ids[member.name] = len(self.ids)
        if "fallback modules" in self.lines:
            for member in module.members:
                path = f"megamod/originals/{member.name}.ko"
                self.files[path] = read_module(self.modules, member.name)
                self.lines.append(f"original /{path}")
        return self

    def text(self) -> bytes:
        return ("\n".join(self.lines) + "\n").encode()


def start_plan(
    modules: Path,
    *,
    root: str = "cmdline",
    critical: Iterable[str] = DISK_MODULES,
    fallback: str = "none",
    head: Iterable[str] = (),
) -> Plan:
    """A plan whose critical stage has the modules *critical*, each on its own; *head* are more records before it."""
    plan = Plan(modules=modules)
    plan.lines.extend(["megamod-plan 1", f"kernel {modules.name}", f"fallback {fallback}", f"root {root}", *head])
    return plan.stage("critical", "now").singles(*critical)


def write_loader_image(
    path: Path,
    plan: Plan | bytes | None,
    *,
    files: Mapping[str, bytes] | None = None,
    without: Iterable[str] = (),
    arch: str = "x86_64",
) -> Path:
    """An image of the loader, the plan and its files, and *files* (path → content, all of them executable).

    *without*: paths of the loader's own that are left out; a folder's place is taken by a file.
    """
    missing = set(without)
    own_files = [
        Entry(path="init", mode=stat.S_IFREG | 0o755, data=loader_binary(arch)),
        Entry(path="megamod/ctl", mode=stat.S_IFREG | 0o755, data=ctl_binary(arch)),
        *(Entry(path=name, mode=stat.S_IFDIR | 0o755) for name in ("dev", "proc", "sys", "run", "root", "megamod")),
    ]
    entries = [
        *(entry for entry in own_files if entry.path not in missing),
        *(Entry(path=e.path, mode=stat.S_IFREG | 0o644) for e in own_files if e.path in missing & _FOLDERS),
        *(Entry(path=name, mode=stat.S_IFREG | 0o755, data=data) for name, data in (files or {}).items()),
    ]
    if plan is not None:
        text, own = (plan, {}) if isinstance(plan, bytes) else (plan.text(), plan.files)
        entries.append(Entry(path="megamod/plan", mode=stat.S_IFREG | 0o644, data=text))
        entries += [Entry(path=name, mode=stat.S_IFREG | 0o644, data=data) for name, data in own.items()]
    write_image(path, entries, method="none")
    return path


def shell_files(script: str, *, path: str = "bin/sh") -> dict[str, bytes]:
    """Files of an image whose *path* is a script for busybox, which is there as /bin/busybox."""
    return {"bin/busybox": host_busybox().read_bytes(), path: f"#!/bin/busybox sh\n{script}\n".encode()}


def gpt_disk(path: Path, filesystem: Path) -> Path:
    """A disk of 512-byte sectors with one GPT partition that holds *filesystem*.

    UEFI specification 2.10, 5.3: protective MBR, header in the second sector, 128 entries of 128 bytes after it. The
    copy at the end of the disk is left out; the kernel reads only the first one when that is right.
    """
    content = filesystem.read_bytes()
    first, last = 2048, 2048 + len(content) // 512 - 1
    sectors = last + 34
    name = PARTLABEL.encode("utf-16-le").ljust(72, b"\0")
    kind = uuid.UUID("0fc63daf-8483-4772-8e79-3d69d8477de4").bytes_le
    entries = struct.pack("<16s16sQQQ72s", kind, uuid.UUID(PARTUUID).bytes_le, first, last, 0, name).ljust(
        128 * 128, b"\0"
    )

    def header(crc: int) -> bytes:
        return struct.pack(
            "<8s4sIIIQQQQ16sQIII",
            *(b"EFI PART", b"\0\0\1\0", 92, crc, 0, 1, sectors - 1, 34, sectors - 34),
            *(uuid.UUID(UUID).bytes_le, 2, 128, 128, zlib.crc32(entries)),
        )

    mbr = struct.pack("<446x4B4BII48xH", 0, 0, 2, 0, 0xEE, 0xFF, 0xFF, 0xFF, 1, sectors - 1, 0xAA55)
    data = mbr + header(zlib.crc32(header(0))).ljust(512, b"\0") + entries
    path.write_bytes(data.ljust(first * 512, b"\0") + content + bytes(33 * 512))
    return path


def dependencies(modules: Path, name: str) -> list[str]:
    """All modules that *name* depends on, in load order."""
    for line in (modules / "modules.dep").read_text().splitlines():
        path, _, rest = line.partition(":")
        if _canonical(path) == name:
            return [_canonical(item) for item in reversed(rest.split())]
    raise AssertionError(f"{name}: not in {modules}")


def module_path(modules: Path, name: str) -> Path:
    """The file of a module."""
    for line in (modules / "modules.dep").read_text().splitlines():
        path = line.partition(":")[0]
        if _canonical(path) == name:
            return modules / path
    raise AssertionError(f"{name}: not in {modules}")


def read_module(modules: Path, name: str) -> bytes:
    """The bytes of a module, as the kernel takes them."""
    path = module_path(modules, name)
    data = path.read_bytes()
    return lzma.decompress(data) if path.suffix == ".xz" else data


def section(console: str, name: str) -> str:
    """What a guest printed between ``[[[ NAME`` and ``]]]``, without the kernel's lines that came between."""
    text = console.partition(f"[[[ {name}\n")[2].partition("]]]")[0]
    assert text, f"the guest has not shown {name!r}"
    return re.sub(r"^\[ *\d+\.\d{6}\].*\n", "", text, flags=re.MULTILINE)


def show(name: str, command: str) -> str:
    """Shell commands that print *command*'s output for `section`; the kernel keeps off the console meanwhile."""
    return f"dmesg -n 1; echo '[[[ {name}'; {{ {command}; }} 2>&1; echo ']]]'; dmesg -n 8\n"


def after(console: str, *parts: str) -> str:
    """What follows the last of *parts*, which have to come in this order."""
    for part in parts:
        assert part in console, f"{part!r} does not come, or too early"
        console = console.partition(part)[2]
    return console


def _canonical(path: str) -> str:
    return Path(path).name.split(".")[0].replace("-", "_")
