"""Finished images, kept for the next build with the same input, and what a kernel exports, kept for all builds.

An entry is known by everything that its making has looked at: the profile's values, the program's own files, and path,
size, times and inode of each file of the module tree, of the firmware folder and of what the profile names. Whatever
changes one of them makes another entry. An entry that is damaged is made again; a folder that cannot be written, or
looked at, is no error. Images may hold secrets (`files`), so nobody else may read the folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path

from megamod.initramfs.boot.host import cache_folder
from megamod.profiles.board import HOST
from megamod.profiles.model import Profile
from megamod.profiles.selectors import ParsedSelector, SelectorKind, parse_selector

_FORMAT = 2
_KEPT = 16
_KEPT_BYTES = 512 << 20
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
            digest.update(_facts(path))
    except OSError:
        return None
    return digest.hexdigest()[:32]


def _inputs(profile: Profile, folder: Path, release: str) -> Iterator[str]:
    package = Path(__file__).parents[2]
    for name in ("initramfs", "loader", "profiles"):
        yield from _below(package / name, skip=("__pycache__",))
    yield from _below(folder, skip=("build", "source"))
    for parent in folder.absolute().parents[2:4]:
        yield from (str(parent / "boot" / f"{name}-{release}") for name in ("config", "vmlinuz", "vmlinux"))
    yield from (str(folder / "build" / name) for name in (".config", "Module.symvers"))
    firmware = Path(profile.firmware_dir) if profile.firmware_dir else folder.absolute().parents[2] / "lib/firmware"
    if profile.firmware.auto or profile.firmware.patterns or profile.microcode.auto:
        yield from _below(firmware)
    if profile.modprobe != "none":
        yield from _below(Path(profile.modprobe))
    for selector in _selectors(profile):
        if selector.kind is SelectorKind.DTB:
            yield str(Path(selector.location.file).parent / selector.pattern.partition("#")[0])
    if isinstance(profile.board, str):
        yield from _below(Path(profile.board)) if Path(profile.board).is_dir() else (profile.board,)
    for item in profile.files:
        source = Path(item.base, item.source)
        # A pattern can match anything below the folder that comes before it.
        fixed = source if not set("*?[") & set(item.source) else Path(str(source).split("*")[0].split("?")[0]).parent
        yield from _below(fixed) if fixed.is_dir() else (str(fixed),)
    yield from profile.microcode.files
    if profile.sign is not None:
        yield from (profile.sign.key, profile.sign.cert)


def _selectors(profile: Profile) -> Iterator[ParsedSelector]:
    for selector in (*(s for stage in profile.stages for s in stage.selectors), *profile.exclude):
        yield parse_selector(selector)


def _below(folder: Path, *, skip: Iterable[str] = ()) -> Iterator[str]:
    """The folder and all files and links below it; links to folders are gone into, as the readers do."""
    seen: set[str] = set()
    yield str(folder)
    for parent, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        folders[:] = sorted(name for name in folders if name not in skip) if real not in seen else []
        seen.add(real)
        yield from (f"{parent}/{name}" for name in folders)
        yield from (f"{parent}/{name}" for name in sorted(files))


def _facts(path: str) -> bytes:
    # No Path for each of thousands of files: making them takes longer than all the rest.
    target = ""
    try:
        status = os.lstat(path)
        if stat.S_ISLNK(status.st_mode):
            target = os.readlink(path)  # noqa: PTH115
            status = os.stat(path)  # noqa: PTH116
    except FileNotFoundError:
        return f"{path}\0{target}\0none\0".encode("utf-8", "surrogateescape")
    mode = status.st_mode
    # Of a folder its mode alone: its times change with files that do not matter.
    times = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino) if stat.S_ISREG(mode) else ()
    return f"{path}\0{target}\0{mode}\0{times}\0".encode("utf-8", "surrogateescape")


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


def read_entry(kind: str, key: str) -> bytes | None:
    """The bytes of the entry, None if there is none or it is damaged."""
    try:
        checksum, _newline, body = (cache_folder() / kind / key).read_bytes().partition(b"\n")
    except (OSError, RuntimeError):
        return None
    return body if hashlib.sha256(body).hexdigest().encode() == checksum else None


def write_entry(kind: str, key: str, body: bytes) -> None:
    """Keep *body*; under another name first, so that of two that write at once the last whole one stays."""
    with contextlib.suppress(OSError, RuntimeError):
        folder = cache_folder() / kind
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".new-", delete=False) as file:
            try:
                file.write(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
                file.close()
                Path(file.name).replace(folder / key)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
        _prune(folder)


def _prune(folder: Path) -> None:
    entries = sorted(folder.glob("[!.]*"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    total = 0
    for number, entry in enumerate(entries):
        total += entry.stat().st_size
        if number >= _KEPT or (number and total > _KEPT_BYTES):
            entry.unlink(missing_ok=True)


def file_key(path: Path) -> str:
    """The name of an entry that was made of one file, and of this program."""
    own = Path(__file__).parents[1]
    facts = [_facts(str(path.absolute())), *(_facts(name) for name in _below(own, skip=("__pycache__",)))]
    return hashlib.sha256(b"".join(facts)).hexdigest()[:32]
