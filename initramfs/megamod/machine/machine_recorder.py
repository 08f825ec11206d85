"""A machine's /sys and /proc → a folder with what detect.py reads of them, for another machine to build from.

Nothing private beyond the names of devices, volumes and mount points goes along: no serial numbers, no command line, no
addresses, no mount options.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from megamod.common.errors import MegamodError
from megamod.machine.board import COMPATIBLE
from megamod.machine.machine import Machine
from megamod.modules.modprobe_d import HOST_FOLDERS

_FILES = re.compile(
    r"(modalias|partition|operstate|proc_name|dm/(name|uuid)|md/level|capabilities/key|console/active"
    r"|dmi/id/(sys_vendor|product_name))$"
)
_LINKS = re.compile(r"(driver|subsystem|device|supplier|supplier:[^/]*|slaves/[^/]+|nvme-subsystem/[^/]+/nvme[^/]+)$")
_CLASS_FOLDERS = ("class/block", "class/input", "class/net", "class/tty", "class/drm", "block", "dev/block")


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A file with its *text*, or a link with its *target*; *path* is relative to the machine's root."""

    path: str
    text: str | None = None
    target: str | None = None


def recorded(machine: Machine) -> Iterator[Item]:
    """All that is recorded of *machine*."""
    drivers: set[str] = set()
    for folder, folders, files in os.walk(machine.root / "sys/devices"):
        folders.sort()
        path = os.path.relpath(folder, machine.root)
        for name in sorted(files):
            if _FILES.search(f"{path}/{name}") and (text := machine.text(f"{path}/{name}")):
                yield Item(path=f"{path}/{name}", text=text)
        # os.walk counts a link to a folder among the folders, and does not follow it.
        for name in (name for name in folders if _LINKS.search(f"{path}/{name}")):
            if target := machine.link_target(f"{path}/{name}"):
                yield Item(path=f"{path}/{name}", target=target)
                if name == "driver" and (driver := machine.real_path(f"{path}/{name}")):
                    drivers.add(driver)
    for driver in sorted(drivers):
        # A folder that has nothing else must still be there for the links to it.
        target = machine.link_target(f"{driver}/module")
        yield Item(path=f"{driver}/module", target=target) if target else Item(path=f"{driver}/name", text="")
    yield from _class_links(machine)
    for path in ("sys/power/resume", COMPATIBLE):
        if text := machine.text(path):
            yield Item(path=path, text=text)
    yield from _proc(machine)
    yield from _modprobe(machine)


def _class_links(machine: Machine) -> Iterator[Item]:
    uuids = [f"fs/btrfs/{uuid}/devices" for uuid in machine.entries("sys/fs/btrfs")]
    consoles = machine.text("sys/class/tty/console/active").split()
    for folder in (*_CLASS_FOLDERS, "bus/virtio/devices", *uuids):
        for name in machine.entries(f"sys/{folder}"):
            # A machine has a hundred virtual terminals.
            if folder == "class/tty" and name not in (*consoles, "console"):
                continue
            if target := machine.link_target(f"sys/{folder}/{name}"):
                yield Item(path=f"sys/{folder}/{name}", target=target)


def _proc(machine: Machine) -> Iterator[Item]:
    lines = []
    for number, mount in enumerate(machine.mounts(), 1):
        point, source = (
            re.sub(r"[ \t\n\\]", lambda c: f"\\{ord(c.group()):03o}", t) for t in (mount.point, mount.source)
        )
        lines.append(f"{number} 0 {mount.device} / {point} rw - {mount.fstype} {source} rw")
    yield Item(path="proc/self/mountinfo", text="\n".join(lines))
    yield Item(path="proc/modules", text="\n".join(f"{name} 0 0 - Live 0x0" for name in machine.loaded_modules()))
    blocks = machine.text("proc/crypto").split("\n\n")
    kept = ("\n".join(re.findall(r"^(?:name|module|refcnt)\s*: .*$", block, re.MULTILINE)) for block in blocks)
    yield Item(path="proc/crypto", text="\n\n".join(block for block in kept if block))


def _modprobe(machine: Machine) -> Iterator[Item]:
    for folder in HOST_FOLDERS:
        for name in machine.entries(folder):
            if name.endswith(".conf") and (text := machine.text(f"{folder}/{name}")):
                yield Item(path=f"{folder}/{name}", text=text)


def write_record(items: Iterable[Item], folder: Path) -> int:
    """Write *items* below the new or empty *folder*; returns how many. Raises MegamodError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise MegamodError(f"{folder}: is not empty", hint="give a folder that does not exist yet")
        count = 0
        for count, item in enumerate(items, 1):  # noqa: B007
            path = folder / item.path
            path.parent.mkdir(parents=True, exist_ok=True)
            if item.target is not None:
                path.symlink_to(item.target)
            else:
                path.write_text(f"{item.text}\n", encoding="utf-8")
        return count
    except OSError as error:
        raise MegamodError(f"{error.filename or folder}: {error.strerror or error}") from None
