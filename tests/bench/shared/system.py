"""A whole Debian system from the cache (tests/hooks/debian_systems.py): other people's programs, and their images.

Made with debootstrap, so it needs root; without, the rows that need it are left out.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from elftools.elf.elffile import ELFFile

from megamod.common.errors import MegamodError
from megamod.common.host import find_program
from megamod.image.cpio import Entry
from tests.hooks.debian_systems import System, make_system

_LIBRARIES = ("usr/lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu/systemd", "usr/lib/systemd", "usr/lib")
_LINKS = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"}


def open_system(suite: str) -> System:
    """Debian's *suite*, from the cache or made now, which takes minutes and a network."""
    if os.geteuid() != 0:
        raise MegamodError("other generators and tools are measured in a Debian system, which only root can make")
    return make_system(suite, partial(find_program))


def program_entries(tree: Path, programs: Iterable[str]) -> Iterator[Entry]:
    """The *programs* of a system with merged /usr (paths below usr/) and all libraries that they need, for an image."""
    wanted = list(programs)
    seen: set[str] = set()
    while wanted:
        path = wanted.pop()
        if path in seen:
            continue
        seen.add(path)
        data = _inside(tree, path).read_bytes()
        yield Entry(path=path, mode=stat.S_IFREG | 0o755, data=data)
        if data.startswith(b"\x7fELF"):
            wanted += _needed(tree, data, path)
    for name, target in _LINKS.items():
        yield Entry(path=name, mode=stat.S_IFLNK | 0o777, data=target.encode())


def _needed(tree: Path, data: bytes, path: str) -> Iterator[str]:
    file = ELFFile(io.BytesIO(data))
    if (interpreter := file.get_section_by_name(".interp")) is not None:
        yield f"usr/{interpreter.data().rstrip(bytes(1)).decode().lstrip('/')}"
    dynamic = file.get_section_by_name(".dynamic")
    for tag in dynamic.iter_tags("DT_NEEDED") if dynamic is not None else ():
        places = [f"{folder}/{tag.needed}" for folder in _LIBRARIES]
        found = next((place for place in places if _inside(tree, place).exists()), None)
        if found is None:
            raise MegamodError(f"{path}: needs {tag.needed}, which the system does not have")
        yield found


def _inside(tree: Path, path: str) -> Path:
    """*path* in *tree*, with absolute links meant from there."""
    place = tree / path
    for _ in range(8):
        if not place.is_symlink():
            break
        target = place.readlink()
        place = tree / target.relative_to("/") if target.is_absolute() else place.parent / target
    return place
