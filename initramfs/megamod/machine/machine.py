"""A machine as its /sys and /proc describe it: this one, or one that `megamod detect --record` has written to a folder.

Everything that detect.py and rootstack.py know of a machine comes through here, so they never look at the host.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from megamod.common.errors import MegamodError
from megamod.common.text import canonical

_MAX_TEXT = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A line of mountinfo. *device* is "MAJOR:MINOR", major 0 for file systems without a block device of their own."""

    point: str
    device: str
    fstype: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The tree below *root*, with `sys` and `proc`. Paths are relative to it; what is missing reads as empty."""

    root: Path

    def text(self, path: str) -> str:
        """The text of a file, without the line end; "" if there is none or it cannot be read."""
        try:
            # Some attributes of sysfs answer with EIO or EINVAL when their device is not ready.
            with (self.root / path).open("rb") as stream:
                return stream.read(_MAX_TEXT).decode("utf-8", "replace").rstrip("\n")
        except OSError:
            return ""

    def link_name(self, path: str) -> str:
        """The last part of what the link *path* points to, "" if it is none."""
        return self.link_target(path).rpartition("/")[2]

    def link_target(self, path: str) -> str:
        """What the link *path* points to, "" if it is none."""
        try:
            return str((self.root / path).readlink())
        except OSError:
            return ""

    def real_path(self, path: str) -> str:
        """*path* with all links followed, "" if that leads nowhere or out of the tree."""
        base = os.path.realpath(self.root)
        target = os.path.realpath(self.root / path)
        inside = os.path.relpath(target, base)
        return inside if os.path.lexists(target) and not inside.startswith("..") else ""

    def entries(self, path: str) -> list[str]:
        """The names in a folder, sorted."""
        try:
            return sorted(entry.name for entry in (self.root / path).iterdir())
        except OSError:
            return []

    def exists(self, path: str) -> bool:
        """Whether there is such a file, folder or link."""
        return os.path.lexists(self.root / path)

    def mounts(self) -> list[Mount]:
        """What is mounted, in the order in which it was; the last one at a place is the one that is seen."""
        found = []
        for line in self.text("proc/self/mountinfo").splitlines():
            before, _dash, after = line.partition(" - ")
            left, right = before.split(" "), after.split(" ")
            if len(left) >= 5 and len(right) >= 2:
                point, source = _unescape(left[4]), _unescape(right[1])
                found.append(Mount(point=point, device=left[2], fstype=right[0], source=source))
        return found

    def loaded_modules(self) -> list[str]:
        """The modules in /proc/modules by canonical name, in that order."""
        lines = self.text("proc/modules").splitlines()
        return [canonical(line.split(" ", 1)[0]) for line in lines if line]

    def modaliases(self) -> Iterator[tuple[str, str]]:
        """(device's folder, modalias) of all devices, sorted."""
        base = self.root / "sys/devices"
        for folder, folders, files in os.walk(base):
            folders.sort()
            if "modalias" in files:
                path = os.path.relpath(folder, self.root)
                if text := self.text(f"{path}/modalias"):
                    yield path, text


def open_machine(folder: Path | None) -> Machine:
    """The machine recorded in *folder*, or this one; raises MegamodError if *folder* holds none."""
    machine = Machine(root=folder or Path("/"))
    if not machine.entries("sys/devices"):
        where = folder or Path("/sys")
        hint = "a recorded machine has sys/ and proc/ in it; `megamod detect --record DIR` writes one"
        if folder is not None and (folder / "devices").is_dir():
            hint = f"{folder} looks like a sys folder: give the folder that has it and proc/ beside it"
        raise MegamodError(f"{where}: it has no devices of a machine", hint=hint)
    return machine


def _unescape(text: str) -> str:
    r"""mountinfo writes blanks, line ends and backslashes as \040 and so on (mangle, fs/proc_namespace.c, 6.1)."""
    for code in (r"\040", r"\011", r"\012", r"\134"):
        text = text.replace(code, chr(int(code[1:], 8)))
    return text
