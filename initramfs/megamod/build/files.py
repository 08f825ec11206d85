"""`files` of a profile → entries of the image, with every error at its place in the profile.

A source is followed where it is a symbolic link itself; links below a folder, and those that a pattern finds, stay
links, as with `cp -rH`. Nothing is read but what the entries name, and nothing leaves the image: a link that climbs
above its root is refused, and what is put below a link goes where that leads in the image. What a file holds and its
permission bits decide the entry, not its owner or its times. Device nodes, pipes and sockets in a folder are passed
over. The folder of a whole system, `SYSTEM/: /`, keeps its modes and links; of it what lies where the loader mounts a
file system is passed over, too.
"""

from __future__ import annotations

import errno
import glob
import io
import os
import posixpath
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from megamod.common.compression import read_regular
from megamod.common.errors import Location, MegamodError, fail
from megamod.common.text import shorten
from megamod.image.cpio import Entry
from megamod.profile.contents import WILD, check_destination
from megamod.profile.model import FileItem, Root

_MAX_FILE = 1 << 30
_MOST_LINKS = 40  # MAXSYMLINKS, include/linux/namei.h
_SHOWN = 4
_SWITCHING = (b"switch_root", b"pivot_root", b"run-init", b"switch-root")

# Write permission of group and others depends on the umask under which a tree was checked out.
_KEPT_BITS = 0o755

# The build makes these folders itself (build.py); a tree that has them too is not a conflict.
_OWN_FOLDERS = ("dev", "proc", "root", "run", "sys")
_MOUNTED_OVER = ("dev", "proc", "run", "sys")

_KINDS = {
    stat.S_IFCHR: "a device node",
    stat.S_IFBLK: "a device node",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFile:
    """An entry that is neither module nor plan, and why it is in the image."""

    entry: Entry
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """The files of `files`, and what was passed over."""

    files: tuple[ImageFile, ...]
    notes: tuple[str, ...] = ()


def collect_files(items: Sequence[FileItem]) -> Collected:
    """The entries of *items*, each path once; raises MegamodError located at the item."""
    found: dict[str, tuple[Entry, Location]] = {}
    passed: list[str] = []
    for item in items:
        for entry in _entries(item, passed):
            _add(found, entry, item)
    placed = _below_links(found)
    _check_parents(placed)
    count, names = len(passed), ", ".join(passed[:_SHOWN])
    more = f" and {count - _SHOWN} more" if count > _SHOWN else ""
    notes = (f"files: passed over, as no image has use for them: {names}{more}",) if passed else ()
    return Collected(
        files=tuple(ImageFile(entry=entry, reason="files") for entry, _place in placed.values()), notes=notes
    )


def _below_links(found: Mapping[str, tuple[Entry, Location]]) -> dict[str, tuple[Entry, Location]]:
    """*found* with what lies below a link at the place where that leads in the image."""
    links = {path: os.fsdecode(entry.data) for path, (entry, _place) in found.items() if stat.S_ISLNK(entry.mode)}
    placed: dict[str, tuple[Entry, Location]] = {}
    for path, (entry, location) in found.items():
        place = through_links(path, links)
        if place is None:
            raise fail(location, f"files: /{path} lies below links that lead in a circle")
        other = placed.get(place)
        if other is not None and not (stat.S_ISDIR(entry.mode) and stat.S_ISDIR(other[0].mode)):
            raise fail(location, f"files: /{place} is there twice", f"first by the entry at {other[1]}")
        placed[place] = (replace(entry, path=place), location)
    return placed


def through_links(path: str, links: Mapping[str, str]) -> str | None:
    """*path*, without a leading slash, with the folders above it followed through *links* (path → target); None for a
    circle. `..` at the root stays there, as in the kernel."""
    if not any(parent in links for parent in _parents(path)):
        return path
    todo, done, steps = path.split("/")[::-1], list[str](), 0
    while todo:
        part = todo.pop()
        if part in ("", "."):
            continue
        if part == "..":
            del done[-1:]
            continue
        here = "/".join([*done, part])
        if todo and here in links:
            steps += 1
            if steps > _MOST_LINKS:
                return None
            target = links[here]
            done = [] if target.startswith("/") else done
            todo += target.split("/")[::-1]
        else:
            done.append(part)
    return "/".join(done)


def _add(found: dict[str, tuple[Entry, Location]], entry: Entry, item: FileItem) -> None:
    path = entry.path
    if stat.S_ISDIR(entry.mode) and path in (*_OWN_FOLDERS, ""):
        return
    if path in ("", "root"):
        message = f"files: {item.source}: /{path} is a folder of the image"
        raise fail(item.location, message, "a source with a slash at its end stands for what is in it")
    check_destination(path, item.location)
    other = found.get(path)
    if other is None:
        found[path] = (entry, item.location)
    elif not (stat.S_ISDIR(entry.mode) and stat.S_ISDIR(other[0].mode)):
        raise fail(item.location, f"files: /{path} is given twice", f"first by the entry at {other[1]}")


def _check_parents(found: Mapping[str, tuple[Entry, Location]]) -> None:
    """What lies below a file would not be unpacked."""
    for path, (_entry, location) in found.items():
        for parent in _parents(path):
            above = found.get(parent)
            if above is not None and not stat.S_ISDIR(above[0].mode):
                message = f"files: /{path} lies below /{parent}, which is not a folder in the image"
                raise fail(location, message, f"/{parent} comes from the entry at {above[1]}")


def _parents(path: str) -> Iterator[str]:
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path


def _entries(item: FileItem, passed: list[str]) -> Iterator[Entry]:
    for source in _sources(item):
        by_pattern = source != _plain_source(item)
        inside = item.source.endswith("/")
        to = item.to.strip("/")
        if item.to.endswith("/") and not inside:
            to = f"{to}/{source.name}".lstrip("/")
        try:
            status = source.lstat() if by_pattern else source.stat()
            if inside and not stat.S_ISDIR(status.st_mode):
                raise fail(item.location, f"files: {source}: not a folder", "leave the slash out")
            is_system = inside and not to
            yield from _walk(source, to, status, item, _Walk(passed=passed, top=source, is_system=is_system))
        except OSError as error:
            raise _unreadable(item, Path(error.filename or source), error) from None


def _plain_source(item: FileItem) -> Path:
    return Path(item.base, item.source)


def _sources(item: FileItem) -> list[Path]:
    """The paths that the source stands for, sorted; none only where it is optional."""
    plain = _plain_source(item)
    if os.path.lexists(plain):
        return [plain]
    found: list[Path] = []
    if WILD.search(item.source):
        pattern = item.source if Path(item.source).is_absolute() else f"{glob.escape(item.base)}/{item.source}"
        # Path.glob finds hidden files too, which no shell's `*` does.
        found = [Path(path) for path in sorted(glob.glob(pattern))]  # noqa: PTH207
    if not found and not item.optional:
        hint = f"sources are relative to {item.base}; write `?` before it if it may be missing"
        raise fail(item.location, f"files: {shorten(item.source)}: no such file", hint)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Walk:
    """A walk below the folder *top*: what is *passed* over, whether *top* is a whole system."""

    passed: list[str]
    top: Path
    is_system: bool


def _walk(source: Path, path: str, status: os.stat_result, item: FileItem, walk: _Walk) -> Iterator[Entry]:
    mode = status.st_mode
    if stat.S_ISDIR(mode):
        kept = stat.S_IMODE(mode) if walk.is_system else mode & _KEPT_BITS
        yield Entry(path=path, mode=stat.S_IFDIR | kept | 0o700)
        if walk.is_system and path in _MOUNTED_OVER:
            with os.scandir(source) as listing:
                walk.passed.extend([f"what lies in /{path}"] if any(listing) else [])
            return
        with os.scandir(source) as listing:
            names = sorted(entry.name for entry in listing)
        for name in names:
            inner = source / name
            yield from _walk(inner, f"{path}/{name}".lstrip("/"), inner.lstat(), item, walk)
    elif stat.S_ISLNK(mode):
        target = str(source.readlink())
        # In the system itself such a link ends at the root, and so it does in the image.
        if not walk.is_system:
            _check_link(path, target, source, item)
        yield Entry(path=path, mode=stat.S_IFLNK | 0o777, data=os.fsencode(target))
    elif stat.S_ISREG(mode):
        kept = stat.S_IMODE(mode) if walk.is_system else mode & _KEPT_BITS
        bits = kept if item.mode is None else item.mode
        yield Entry(path=path, mode=stat.S_IFREG | bits, data=_read(source, item))
    else:
        kind = _KINDS.get(stat.S_IFMT(mode), "no file, folder or link")
        if source != walk.top:
            walk.passed.append(f"/{path} ({kind})")
            return
        raise fail(item.location, f"files: {source}: is {kind}", "the kernel makes the device nodes of /dev")


def _read(source: Path, item: FileItem) -> bytes:
    try:
        return read_regular(source, limit=_MAX_FILE)
    except MegamodError as error:
        raise fail(item.location, f"files: {error.message}", error.hint) from None


def _check_link(path: str, target: str, source: Path, item: FileItem) -> None:
    depth = path.count("/")
    for part in target.split("/") if not target.startswith("/") else ():
        if part == "..":
            depth -= 1
        elif part not in ("", "."):
            depth += 1
        if depth < 0:
            message = f"files: {source}: the link to {shorten(target)} leads out of the image"
            raise fail(item.location, message, "name the file itself: a source that is a link is followed")


def _unreadable(item: FileItem, path: Path, error: OSError) -> MegamodError:
    text = "no such file" if error.errno == errno.ENOENT else error.strerror or str(error)
    return fail(item.location, f"files: {path}: {text}")


def program_notes(root: Root, files: Iterable[ImageFile], *, deferred: bool = False) -> list[str]:
    """What the program of `root: {exec: …}` or `{chain: …}` lacks, as far as `files` can tell; *deferred*: whether a
    stage is loaded while it runs."""
    if root.path is None:
        return []
    entries = {file.entry.path: file.entry for file in files}
    if not entries:
        # Nothing is said of an image to which a second archive will be added.
        return []
    program = resolved(root.path, entries)
    if program is None:
        return [f"root: {root.kind} {root.path} is not in `files`: another archive must bring it"]
    text = b" ".join([program.data, *(word.encode() for word in root.args)])
    if deferred and root.kind == "exec" and any(word in text for word in _SWITCHING):
        # It empties the initramfs, where the files of the stages lie.
        return [
            f"root: {root.path} seems to go on to a root of its own (switch_root): with `exec` the files of deferred "
            f"stages are gone by then; `root: {{chain: {root.path}}}` keeps them open"
        ]
    interpreter = _interpreter(program.data)
    if interpreter is not None and resolved(interpreter, entries) is None:
        return [f"root: {root.path} is run by {interpreter}, which is not in `files`"]
    return []


def resolved(path: str, entries: Mapping[str, Entry]) -> Entry | None:
    """The regular file at the absolute *path* of the image, through its links; None if there is none."""
    parts, done, steps = [part for part in path.split("/") if part], "", 0
    while parts:
        part = parts.pop(0)
        step = posixpath.normpath(f"/{done}/{part}").strip("/")
        entry = entries.get(step)
        if entry is not None and stat.S_ISLNK(entry.mode):
            steps += 1
            if steps > 40:
                return None
            target = os.fsdecode(entry.data)
            done = "" if target.startswith("/") else done
            parts = [*(part for part in target.split("/") if part), *parts]
        else:
            done = step
    found = entries.get(done)
    return found if found is not None and stat.S_ISREG(found.mode) else None


def _interpreter(data: bytes) -> str | None:
    """What runs the program: the word after `#!`, or an ELF file's PT_INTERP."""
    if data.startswith(b"#!"):
        words = data[2:256].split(b"\n")[0].split()
        return os.fsdecode(words[0]) if words else None
    if data[:4] != b"\x7fELF":
        return None
    from elftools.common.exceptions import ELFError  # for images with programs alone
    from elftools.elf.elffile import ELFFile

    try:
        for segment in ELFFile(io.BytesIO(data)).iter_segments("PT_INTERP"):
            return os.fsdecode(segment.data().rstrip(b"\0"))
    except (ELFError, UnicodeDecodeError, ValueError):
        return None
    return None
