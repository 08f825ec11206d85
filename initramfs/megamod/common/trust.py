"""Whether root may execute or read a file as its own: nobody else can change it, or what its path stands for.

Every folder and every link on the way counts: who may write to a folder decides what its names are. A folder with the
sticky bit (/tmp) lets others make files, but neither rename nor remove root's.
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath

from megamod.common.errors import MegamodError

_MOST_LINKS = 40  # MAXSYMLINKS, include/linux/namei.h
_CALLERS = ("SUDO_UID", "PKEXEC_UID", "DOAS_USER")
_TEMPORARY = ("TMPDIR", "TEMP", "TMP")  # what tempfile.gettempdir() looks at
WAY_OUT = "python3 -m venv /opt/megamod && /opt/megamod/bin/pip install megamod"
"""What gives root a program of its own."""


def way_to(path: PurePath, *, root: Path = Path("/")) -> Iterator[Path]:
    """All that is looked up on the way to *path*, absolute as seen from *root*: folders, links and at last the file.

    Ends at what is not there; raises MegamodError for links in a circle.
    """
    todo = [part for part in reversed(path.parts) if part != "/"]
    found: list[str] = []
    links = 0
    yield root
    while todo:
        part = todo.pop()
        if part == "..":
            del found[-1:]
            continue
        here = root.joinpath(*found, part)
        if not os.path.lexists(here):
            return
        yield here
        if here.is_symlink():
            links += 1
            if links > _MOST_LINKS:
                raise MegamodError(f"{root.joinpath(*path.parts[1:])}: {os.strerror(errno.ELOOP)}")
            target = here.readlink()
            if target.is_absolute():
                found.clear()
            todo += [each for each in reversed(target.parts) if each != "/"]
            continue
        found.append(part)


def why_untrusted(path: Path) -> str | None:
    """How somebody else than root can change *path* itself (not what it points to); None if nobody can."""
    status = path.lstat()
    if status.st_uid != 0:
        return f"{path} belongs to user {status.st_uid}"
    if stat.S_ISLNK(status.st_mode):
        return None
    if status.st_mode & stat.S_IWOTH and not (stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX):
        return f"{path} can be written by everybody"
    if status.st_mode & stat.S_IWGRP and status.st_gid != 0:
        return f"{path} can be written by group {status.st_gid}"
    return None


def first_untrusted(paths: Iterable[Path]) -> str | None:
    """The first reason not to trust one of *paths* and all that leads to each; None if there is none."""
    checked: set[Path] = set()
    for path in paths:
        for step in way_to(path):
            if step not in checked and (why := why_untrusted(step)) is not None:
                return why
            checked.add(step)
    return None


def is_called_by_user() -> bool:
    """Whether this is root in the environment of another user, as sudo -E, doas and pkexec leave it.

    A build system's fakeroot is root, too, and all that it works on is another user's: there nothing is in the way.
    """
    return os.geteuid() == 0 and any(os.environ.get(name, "0") not in ("", "0") for name in _CALLERS)


def is_anothers(folder: Path) -> bool:
    """Whether another user than root, or everybody, decides what the names in *folder* are.

    Less than `first_untrusted`: groups that the system has made for it may write, as Debian's `staff` to /usr/local.
    """
    for step in way_to(folder):
        status = step.lstat()
        everybody = status.st_mode & stat.S_IWOTH and not stat.S_ISLNK(status.st_mode)
        if status.st_uid != 0 or (everybody and not status.st_mode & stat.S_ISVTX):
            return True
    return False


def own_temporary_folder() -> None:
    """Have root make its temporary files where nobody else can exchange them: sudo -E keeps a user's TMPDIR."""
    if not is_called_by_user() or not any(os.environ.get(name) for name in _TEMPORARY):
        return
    if first_untrusted([Path(tempfile.gettempdir()).absolute()]) is not None:
        tempfile.tempdir = "/tmp"
        for name in _TEMPORARY:
            os.environ.pop(name, None)


def require_trusted(path: Path | None, what: str) -> None:
    """Raises MegamodError if this is root and others can change *path*; *what* it is, for the message: `the profile`.

    What is not there is for its reader to complain about.
    """
    if os.geteuid() != 0 or path is None:
        return
    if why := first_untrusted([path.absolute()]):
        hint = "give root a copy of its own, such as in /etc/megamod"
        raise MegamodError(f"{path}: root does not read {what} that others can change: {why}", hint=hint)
