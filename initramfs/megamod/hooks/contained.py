"""Paths below a root as a process sees them that was put into it by chroot(2): nothing named this way lies outside.

An image root and a system below a folder have absolute symbolic links that mean their own files (`lib -> /usr/lib`);
followed by the host they lead to the host's. What openat2(2) does with RESOLVE_IN_ROOT is done here component by
component, so that it works for files that are yet to be made.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path, PurePath

from megamod.common.errors import MegamodError

_MOST_LINKS = 40  # MAXSYMLINKS, include/linux/namei.h


def inside(root: Path, name: str | PurePath, *, follow: bool = True) -> Path:
    """The real place of *name*, relative to *root* or absolute as seen from it; *follow* False keeps a link at its end.

    `..` at the root stays there, as do links that lead out. Raises MegamodError for links in a circle.
    """
    todo = [part for part in reversed(PurePath(name).parts) if part != "/"]
    found: list[str] = []
    links = 0
    while todo:
        part = todo.pop()
        if part == "..":
            del found[-1:]
            continue
        path = root.joinpath(*found, part)
        if (todo or follow) and path.is_symlink():
            links += 1
            if links > _MOST_LINKS:
                raise MegamodError(f"{root / name}: {os.strerror(errno.ELOOP)}")
            target = path.readlink()
            if target.is_absolute():
                found.clear()
            todo += [each for each in reversed(target.parts) if each != "/"]
            continue
        found.append(part)
    return root.joinpath(*found)
