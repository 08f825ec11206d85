"""What a guest's /sys and /proc say of its root and console: a script that prints them, and the machine read back.

The script is /bin/sh of a small archive behind the image; `megamod.break=pre-switch` has the loader run it when the
root is mounted, before the real init. It prints what `megamod detect --record` records of a machine.
"""

from __future__ import annotations

import re
import stat
from pathlib import Path

from megamod.common.errors import MegamodError
from megamod.image.cpio import Entry, write_cpio
from megamod.machine.machine import Machine

BREAK_WORD = "megamod.break=pre-switch"
_BEGIN, _FILES, _END = "megamod-look: links", "megamod-look: files", "megamod-look: end"

# Few processes, as a guest that is emulated starts some fifty a second.
_SCRIPT = f"""\
#!/bin/busybox sh
B=/bin/busybox
$B dmesg -n 1
echo "{_BEGIN}"
$B find /sys/devices /sys/block /sys/class /sys/dev /sys/bus /sys/fs -type l -print0 | $B xargs -0 $B ls -ld
echo "{_FILES}"
$B find /sys/devices /sys/power -type f "(" -name modalias -o -name partition -o -name operstate -o -name proc_name \
-o -path "*/dm/name" -o -path "*/dm/uuid" -o -path "*/md/level" -o -path "*/capabilities/key" \
-o -path "*/console/active" -o -name resume ")" -print0 | $B xargs -0 $B grep -H ""
$B grep -H "" /proc/self/mountinfo /proc/crypto
echo "{_END}"
$B dmesg -n 8
"""
_LINK = re.compile(r"^l\S+ .* /(sys/\S+) -> (\S+)$", re.MULTILINE)
_FILE = re.compile(
    r"^/(sys/.*?/(?:modalias|partition|operstate|proc_name|dm/name|dm/uuid|md/level|key|active|resume)|proc/[a-z/]+):"
    r"(.*)$",
    re.MULTILINE,
)
# The loader mounts the root there; for the machine that is looked at it is the root.
_ROOT = "/root"


def look_archive(busybox: bytes) -> bytes:
    """The archive that goes behind an image; *busybox* is a static one of the guest's architecture."""
    program = stat.S_IFREG | 0o755
    entries = [
        Entry(path="bin", mode=stat.S_IFDIR | 0o755),
        Entry(path="bin/busybox", mode=program, data=busybox),
        Entry(path="bin/sh", mode=program, data=_SCRIPT.encode()),
    ]
    return write_cpio(entries, mtime=0)


def has_look(console: str) -> bool:
    """Whether the script has printed its work on *console*."""
    return f"{_BEGIN}\n" in console and f"{_END}\n" in console


def machine_of(console: str, folder: Path) -> Machine:
    """The machine that the script has shown, written below the empty *folder*."""
    links = console[console.index(f"{_BEGIN}\n") : console.index(f"{_FILES}\n")]
    files = console[console.index(f"{_FILES}\n") : console.index(f"{_END}\n")]
    try:
        for path, target in _LINK.findall(links):
            _below(folder, path).symlink_to(target)
        for path, text in _texts(files).items():
            _below(folder, path).write_text(text)
        # A driver's folder has nothing that is shown, but links lead to it.
        for path, target in _LINK.findall(links):
            if path.endswith("/driver"):
                (folder / path).parent.joinpath(target).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MegamodError(f"{error.filename or folder}: {error.strerror or error}") from None
    return Machine(root=folder)


def _below(folder: Path, path: str) -> Path:
    if ".." in path.split("/"):
        raise MegamodError(f"{path}: a guest's path that leads out of its /sys")
    place = folder / path
    place.parent.mkdir(parents=True, exist_ok=True)
    return place


def _texts(files: str) -> dict[str, str]:
    contents: dict[str, list[str]] = {}
    for path, line in _FILE.findall(files):
        contents.setdefault(path, []).append(line)
    texts = {path: "\n".join(lines) + "\n" for path, lines in contents.items()}
    if "proc/self/mountinfo" in texts:
        lines = texts["proc/self/mountinfo"].splitlines()
        texts["proc/self/mountinfo"] = "".join(f"{line}\n" for line in _seen_from_root(lines))
    return texts


def _seen_from_root(lines: list[str]) -> list[str]:
    """The mounts as they will be once the root is /."""
    found = []
    for line in lines:
        fields = line.split(" ")
        point = fields[4] if len(fields) > 4 else ""
        if point == _ROOT or point.startswith(f"{_ROOT}/"):
            fields[4] = point.removeprefix(_ROOT) or "/"
            found.append(" ".join(fields))
    return found
