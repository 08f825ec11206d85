"""The entries of an image → files in a folder, as the kernel unpacks them into its root, but never outside the folder.

init/initramfs.c (do_name, do_symlink, 6.1): entries in their order, a later one of the same path replaces an earlier
one, a path goes through links that earlier entries have made. Here each path is walked inside the folder alone: a link
to /etc leads to etc below the folder, and .. at the folder's top stays there, as in a chroot. Missing folders above a
file are made; the kernel leaves such a file out.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from megamod.common.errors import MegamodError
from megamod.common.text import shorten
from megamod.image.cpio import Entry

_MAX_LINKS = 40
"""As in the kernel's path walk (MAXSYMLINKS, include/linux/namei.h)."""

_HOSTILE = "the image is damaged or hostile"


@dataclass(slots=True, kw_only=True)
class UnpackReport:
    """*files*: how many entries were made; *notes*: what was left out, and why."""

    files: int = 0
    notes: list[str] = field(default_factory=list)


def unpack_entries(entries: Iterable[Entry], folder: Path) -> UnpackReport:
    """Make *entries* below *folder*, which is new or empty. Raises MegamodError otherwise, and for an entry that cannot
    be placed below it; what was made before stays, so that it can be looked at."""
    _make_empty(folder)
    report = UnpackReport()
    modes: dict[Path, int] = {}
    devices = []
    for entry in entries:
        if entry.path in ("", "."):
            continue
        place = _place(folder, entry.path)
        if stat.S_ISDIR(entry.mode):
            # The mode comes last: a folder may be closed to us.
            modes[place] = stat.S_IMODE(entry.mode)
        else:
            modes.pop(place, None)
        if _make(place, entry):
            report.files += 1
        else:
            devices.append(entry.path)
    for place, mode in sorted(modes.items(), reverse=True):
        if place.is_dir():
            place.chmod(mode)
    if devices:
        listed = ", ".join(f"/{shorten(path)}" for path in devices[:5]) + (", …" if len(devices) > 5 else "")
        what = "device node" if len(devices) == 1 else "device nodes"
        report.notes.append(f"{len(devices)} {what} left out, only root can make them: {listed}")
    return report


def _make_empty(folder: Path) -> None:
    try:
        folder.mkdir()
    except FileExistsError:
        if not folder.is_dir():
            raise MegamodError(f"{folder}: is not a folder", hint="name a new or an empty one") from None
        if any(folder.iterdir()):
            raise MegamodError(f"{folder}: is not empty", hint="name a new or an empty folder") from None


def _place(folder: Path, path: str) -> Path:
    """Where *path* goes: its folders made, links in them followed inside of *folder*, the last part as it is."""
    parts = path.split("/")
    if ".." in parts or "\0" in path:
        raise MegamodError(f"{shorten(path)}: is not a path inside an image", hint=_HOSTILE)
    *above, name = [part for part in parts if part not in ("", ".")]
    return _walk(folder, above, path) / name


def _walk(folder: Path, parts: list[str], path: str) -> Path:
    here: list[str] = []
    todo = list(reversed(parts))
    links = 0
    while todo:
        part = todo.pop()
        if part in ("", "."):
            continue
        if part == "..":
            del here[-1:]
            continue
        at = folder.joinpath(*here, part)
        if at.is_symlink():
            links += 1
            if links > _MAX_LINKS:
                raise MegamodError(f"{shorten(path)}: too many links on the way", hint=_HOSTILE)
            target = str(at.readlink())
            if target.startswith("/"):
                here = []
            todo += reversed(target.split("/"))
            continue
        if not at.is_dir():
            if os.path.lexists(at):
                raise MegamodError(f"{shorten(path)}: lies below /{'/'.join((*here, part))}, which is not a folder")
            at.mkdir(mode=0o755)
        here.append(part)
    return folder.joinpath(*here)


def _make(place: Path, entry: Entry) -> bool:
    """Make *entry* at *place*; False for a device node that this user may not make."""
    _clear(place, entry)
    mode = stat.S_IMODE(entry.mode)
    if stat.S_ISDIR(entry.mode):
        place.mkdir(mode=0o700, exist_ok=True)
    elif stat.S_ISLNK(entry.mode):
        place.symlink_to(os.fsdecode(entry.data))
    elif stat.S_ISREG(entry.mode):
        descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(entry.data)
            os.fchmod(file.fileno(), mode)
    else:
        try:
            number = os.makedev(*entry.rdev) if entry.rdev is not None else 0
        except OverflowError:
            raise MegamodError(f"{shorten(entry.path)}: its device number is out of range", hint=_HOSTILE) from None
        try:
            os.mknod(place, entry.mode, number)
        except PermissionError:
            return False
        place.chmod(mode)
    return True


def _clear(place: Path, entry: Entry) -> None:
    """Take away what an earlier entry has made there, as the kernel does (clean_path); a folder stays for a folder."""
    if not os.path.lexists(place):
        return
    if place.is_symlink() or not place.is_dir():
        place.unlink()
    elif not stat.S_ISDIR(entry.mode):
        try:
            place.rmdir()
        except OSError:
            raise MegamodError(f"{shorten(entry.path)}: is a file where the image has files below") from None
