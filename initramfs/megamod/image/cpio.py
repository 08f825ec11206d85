"""The newc archive of an image, written and read by libarchive.

Needs entries, gives bytes and back. What is written depends on the entries and the time given alone: sorted by path,
parents present, user and group 0, inode 0, one link each. init/initramfs.c (6.1) looks for hard links only among
entries with two links or more (maybe_link), so equal inodes are not links; neither are they for GNU cpio.
"""

from __future__ import annotations

import ctypes
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass, replace

from megamod.common.archive_library import ffi, libarchive
from megamod.common.compression import skip_zeros
from megamod.common.errors import MegamodError

# PATH_MAX with the closing zero; a longer name or link target is left out by the kernel without a word
# (init/initramfs.c, do_header, 6.1).
_PATH_MAX = 4096
_MAX_FIELD = 0xFFFFFFFF
_HEADER = 110
_TRAILER = "TRAILER!!!"
_MAGICS = (b"070701", b"070702")
_BLOCK = 1 << 20
_MOST_ENTRIES = 10_000_000

_TYPES = (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK)
_DEVICES = (stat.S_IFCHR, stat.S_IFBLK)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One file of an image.

    ``path`` has no leading slash. ``mode`` is the full ``st_mode`` with its type. ``data`` is the content of a
    regular file or the target of a symbolic link, empty otherwise. ``rdev`` is (major, minor) of a device.
    """

    path: str
    mode: int
    data: bytes = b""
    rdev: tuple[int, int] | None = None


def write_cpio(entries: Iterable[Entry], *, mtime: int) -> bytes:
    """A newc archive of *entries*, sorted, with the folders above them (0755) added; *mtime* in seconds.

    Raises MegamodError for a path that is absolute, leaves the image, comes twice or lies below a file.
    """
    assert 0 <= mtime <= _MAX_FIELD, mtime
    ordered = _with_parents(entries)
    blocks: list[bytes] = []

    def collect(block: ctypes.Array[ctypes.c_char]) -> int:
        blocks.append(block.raw)
        return len(block)

    with libarchive.custom_writer(collect, "cpio_newc", block_size=_BLOCK) as archive:
        for entry in ordered:
            header = _header(entry, mtime)
            ffi.write_header(archive._pointer, header._entry_p)
            if stat.S_ISREG(entry.mode) and entry.data:
                ffi.write_data(archive._pointer, entry.data, len(entry.data))
            ffi.write_finish_entry(archive._pointer)
    return b"".join(blocks)


def read_cpio(data: bytes, *, source: str = "archive", most: int = _MOST_ENTRIES) -> list[Entry]:
    """The entries of all newc archives in *data*, one after the other with zero bytes between, in their order.

    A leading ``./`` or ``/`` is taken off the paths. *source* begins the text of an error; more than *most* entries are
    one.
    """
    entries: list[Entry] = []
    position = 0
    while position < len(data):
        if data[position] == 0:
            position = skip_zeros(data, position)
            continue
        end = archive_end(data, position, source=source)
        entries += _read_one(
            data[position:end] if (position, end) != (0, len(data)) else data, source, most - len(entries)
        )
        position = end
    return entries


def archive_end(data: bytes, start: int, *, source: str) -> int:
    """The position after the newc archive at *start*, its trailer included (zero bytes may follow)."""
    position = start
    while True:
        header = data[position : position + _HEADER]
        if not any(magic.startswith(header[:6]) for magic in _MAGICS):
            raise MegamodError(f"{source}: offset {position}: not a newc cpio header")
        if len(header) < _HEADER:
            raise MegamodError(f"{source}: the cpio archive is cut short, it has no trailer")
        if not re.fullmatch(rb"[0-9A-Fa-f]{104}", header[6:]):
            raise MegamodError(f"{source}: offset {position}: damaged cpio header")
        size, name_size = (int(header[at : at + 8], 16) for at in (54, 94))
        name_at = position + _HEADER
        name = data[name_at : name_at + name_size].rstrip(b"\0")
        position = _aligned(_aligned(name_at + name_size, start) + size, start)
        if name == _TRAILER.encode():
            # The last padding may be missing at the end of the file.
            return min(position, len(data))
        if position > len(data):
            raise MegamodError(f"{source}: the cpio archive is cut short in {name.decode(errors='replace')}")


def _aligned(position: int, start: int) -> int:
    return start + ((position - start + 3) & ~3)


def _read_one(data: bytes, source: str, most: int) -> list[Entry]:
    entries: list[Entry] = []
    # The positions of a file's names, by its first name: for libarchive the later ones are links to that.
    names: dict[bytes, list[int]] = {}
    linked: list[list[int]] = []
    try:
        with libarchive.memory_reader(data, format_name="cpio", filter_name="none") as archive:
            for entry in archive:
                if len(entries) >= most:
                    raise MegamodError(f"{source}: has too many files for its size", hint="it is damaged or hostile")
                name = ffi.entry_pathname(entry._entry_p) or b""
                path = name.decode("utf-8", "surrogateescape")
                mode = entry.mode
                content = b""
                if stat.S_ISLNK(mode):
                    content = ffi.entry_symlink(entry._entry_p) or b""
                elif stat.S_ISREG(mode):
                    content = b"".join(entry.get_blocks(min(max(entry.size or 0, 1), _BLOCK)))
                    first = ffi.entry_hardlink(entry._entry_p)
                    if first in names:
                        names[first].append(len(entries))
                        linked.append(names[first])
                    else:
                        names[name] = [len(entries)]
                entries.append(
                    Entry(
                        path=path.removeprefix("./").lstrip("/"),
                        mode=mode,
                        data=content,
                        rdev=(entry.rdevmajor, entry.rdevminor) if stat.S_IFMT(mode) in _DEVICES else None,
                    )
                )
    except libarchive.ArchiveError as error:
        raise MegamodError(f"{source}: damaged cpio archive: {error.msg}") from None
    except OverflowError:
        # libarchive's binding passes on what no C type holds.
        raise MegamodError(f"{source}: damaged cpio archive: a number in it is out of range") from None
    for places in linked:
        # newc has the content with the last name only (GNU cpio); the kernel links the others (maybe_link, 6.1).
        content = next((entries[place].data for place in reversed(places) if entries[place].data), b"")
        for place in places:
            entries[place] = replace(entries[place], data=content)
    return entries


def _header(entry: Entry, mtime: int) -> libarchive.ArchiveEntry:
    header = libarchive.ArchiveEntry(mode=entry.mode, uid=0, gid=0, mtime=mtime, size=0)
    # As bytes: what is set as text is converted to the charset of the locale, and fails for a path outside ASCII
    # under LC_ALL=C, which dracut exports.
    ffi.entry_copy_pathname(header._entry_p, _encode(entry.path))
    # libarchive-c wraps neither of these; its linkpath makes a hard link of a new entry.
    library = ffi.libarchive
    library.archive_entry_set_nlink(ctypes.c_void_p(header._entry_p), ctypes.c_uint(1))
    if stat.S_ISLNK(entry.mode):
        library.archive_entry_copy_symlink(ctypes.c_void_p(header._entry_p), ctypes.c_char_p(entry.data))
    elif stat.S_ISREG(entry.mode):
        header.size = len(entry.data)
    if entry.rdev is not None:
        header.rdev = entry.rdev
    return header


def _with_parents(entries: Iterable[Entry]) -> list[Entry]:
    """*entries* checked and sorted by the bytes of their paths, so that each folder comes before what is in it."""
    by_path: dict[str, Entry] = {}
    for entry in entries:
        _check(entry)
        if entry.path in by_path:
            raise MegamodError(f"{entry.path}: is in the image twice")
        by_path[entry.path] = entry
    for path in list(by_path):
        parent = path
        while "/" in parent:
            parent = parent.rpartition("/")[0]
            above = by_path.setdefault(parent, Entry(path=parent, mode=stat.S_IFDIR | 0o755))
            if not stat.S_ISDIR(above.mode):
                raise MegamodError(f"{path}: lies below {parent}, which is not a folder in the image")
    return sorted(by_path.values(), key=lambda entry: _encode(entry.path))


def _check(entry: Entry) -> None:
    kind = stat.S_IFMT(entry.mode)
    assert kind in _TYPES and entry.mode <= 0o177777, f"{entry.path}: mode {entry.mode:#o}"
    assert (entry.rdev is not None) == (kind in _DEVICES), f"{entry.path}: rdev {entry.rdev}"
    assert not entry.data or kind in (stat.S_IFREG, stat.S_IFLNK), f"{entry.path}: data"
    parts = entry.path.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\0" in entry.path or entry.path == _TRAILER:
        raise MegamodError(
            f"{entry.path!r}: not a path inside an image", hint="write it relative, as in usr/bin/camera"
        )
    if len(_encode(entry.path)) >= _PATH_MAX:
        raise MegamodError(f"{entry.path[:40]}…: the path has more than {_PATH_MAX - 1} bytes")
    if len(entry.data) > _MAX_FIELD:
        raise MegamodError(f"{entry.path}: is larger than the 4 GiB that cpio holds")
    if kind == stat.S_IFLNK and not (0 < len(entry.data) < _PATH_MAX and b"\0" not in entry.data):
        raise MegamodError(f"{entry.path}: the link has no usable target")


def _encode(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")
