"""Finished images, kept for the next build with the same input, and what a kernel exports, kept for all builds.

An entry is known by everything that its making has looked at: the profile's values, the program's own files, and path,
size, times and inode of each file of the module tree, of the firmware folder and of what the profile names. Whatever
changes one of them makes another entry. An entry that is damaged is made again; a folder that cannot be written, or
looked at, is no error. Images may hold secrets (`files`), so nobody else may read the folder.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from megamod.common.cache import file_facts, paths_below, read_entry, write_entry
from megamod.common.host import data_folder
from megamod.machine.board import HOST
from megamod.profile.model import Profile
from megamod.profile.selectors import ParsedSelector, SelectorKind, parse_selector

_FORMAT = 2
_LIBRARIES = ("zstandard", "lz4", "libarchive-c", "cryptography", "numpy", "pyelftools")


def image_key(profile: Profile, folder: Path, release: str) -> str | None:
    """The name of the entry for an image of *profile* on the tree *folder*; None where it cannot be known.

    `@detected`, `modprobe-d: host` and `board: host` are of the machine as it is now, and an UKI is of tools beside us.
    """
    kinds = {selector.kind for selector in _selectors(profile)}
    if profile.output is not None or HOST in (profile.modprobe, profile.board) or SelectorKind.DETECTED in kinds:
        return None
    digest = hashlib.sha256(f"{_FORMAT}\0{sys.version}\0{folder.resolve()}\0{release}\0".encode())
    digest.update(f"{profile!r}\0{os.environ.get('SOURCE_DATE_EPOCH', '')}\0".encode("utf-8", "surrogateescape"))
    digest.update("\0".join(version(name) for name in _LIBRARIES).encode())
    try:
        for path in _inputs(profile, folder, release):
            digest.update(file_facts(path))
    except OSError:
        return None
    return digest.hexdigest()[:32]


def _inputs(profile: Profile, folder: Path, release: str) -> Iterator[str]:
    for own in (Path(__file__).parents[1], data_folder("loader"), data_folder("profiles")):
        yield from paths_below(own, skip=("__pycache__",))
    yield from paths_below(folder, skip=("build", "source"))
    for parent in folder.absolute().parents[2:4]:
        yield from (str(parent / "boot" / f"{name}-{release}") for name in ("config", "vmlinuz", "vmlinux"))
    yield from (str(folder / "build" / name) for name in (".config", "Module.symvers"))
    firmware = Path(profile.firmware_dir) if profile.firmware_dir else folder.absolute().parents[2] / "lib/firmware"
    if profile.firmware.auto or profile.firmware.patterns or profile.microcode.auto:
        yield from paths_below(firmware)
    if profile.modprobe != "none":
        yield from paths_below(Path(profile.modprobe))
    for selector in _selectors(profile):
        if selector.kind is SelectorKind.DTB:
            yield str(Path(selector.location.file).parent / selector.pattern.partition("#")[0])
    if isinstance(profile.board, str):
        yield from paths_below(Path(profile.board)) if Path(profile.board).is_dir() else (profile.board,)
    for item in profile.files:
        source = Path(item.base, item.source)
        # A pattern can match anything below the folder that comes before it.
        fixed = source if not set("*?[") & set(item.source) else Path(str(source).split("*")[0].split("?")[0]).parent
        yield from paths_below(fixed) if fixed.is_dir() else (str(fixed),)
    yield from profile.microcode.files
    if profile.sign is not None:
        yield from (profile.sign.key, profile.sign.cert)


def _selectors(profile: Profile) -> Iterator[ParsedSelector]:
    for selector in (*(s for stage in profile.stages for s in stage.selectors), *profile.exclude):
        yield parse_selector(selector)


def read_image_entry(key: str) -> tuple[bytes, bytes] | None:
    """The image and its map, None if there is no such entry or it is damaged."""
    body = read_entry("images", key)
    if body is None:
        return None
    size, _newline, rest = body.partition(b"\n")
    return rest[: int(size)], rest[int(size) :]


def write_image_entry(key: str, image: bytes, link_map: bytes) -> None:
    """Keep an image and its map; in one entry, so that neither is there without the other."""
    write_entry("images", key, b"%d\n" % len(image) + image + link_map)
