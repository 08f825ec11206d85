"""What was made once and is kept for the next time: entries by kind and key, whole or not there.

An entry that is damaged is made again; a folder that cannot be written, or looked at, is not an error. Entries may hold
secrets, so nobody else may read the folder; and what is in them goes into images, so nobody else may write there, and a
link in the folder's place is not followed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from megamod.common.host import cache_folder
from megamod.common.trust import first_untrusted

_KEPT = 16
_KEPT_BYTES = 512 << 20
# The names that are given here.
_KEY = re.compile(r"[0-9a-f]{32}")
_FRESH = re.compile(r"\.new-[0-9a-f]{16}")
_ABANDONED_S = 24 * 3600


def paths_below(folder: Path, *, skip: Iterable[str] = ()) -> Iterator[str]:
    """The folder and all files and links below it; links to folders are gone into, as the readers do."""
    seen: set[str] = set()
    yield str(folder)
    for parent, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        folders[:] = sorted(name for name in folders if name not in skip) if real not in seen else []
        seen.add(real)
        yield from (f"{parent}/{name}" for name in folders)
        yield from (f"{parent}/{name}" for name in sorted(files))


def file_facts(path: str) -> bytes:
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


def read_entry(kind: str, key: str, *, base: Path | None = None) -> bytes | None:
    """The bytes of the entry, None if there is none or it is damaged; *base* is another folder than the cache."""
    try:
        with _opened(base, kind) as folder:
            descriptor = os.open(key, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            with open(descriptor, "rb") as file:  # noqa: PTH123
                _require_own(descriptor, stat.S_ISREG)
                checksum, _newline, body = file.read().partition(b"\n")
    except (OSError, RuntimeError):
        return None
    return body if hashlib.sha256(body).hexdigest().encode() == checksum else None


def write_entry(kind: str, key: str, body: bytes, *, base: Path | None = None) -> None:
    """Keep *body*; under another name first, so that of two that write at once the last whole one stays.

    *key* is 32 hexadecimal digits. A folder that is not this user's own, or a link in its place, is left alone.
    """
    assert _KEY.fullmatch(key), key
    with contextlib.suppress(OSError, RuntimeError):
        (_base(base) / kind).mkdir(mode=0o700, parents=True, exist_ok=True)
        with _opened(base, kind) as folder:
            fresh = f".new-{os.urandom(8).hex()}"
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(fresh, flags, 0o600, dir_fd=folder)
            try:
                with open(descriptor, "wb") as file:  # noqa: PTH123
                    file.write(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
                os.rename(fresh, key, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(fresh, dir_fd=folder)
                raise
            _prune(folder)


def _base(base: Path | None) -> Path:
    return cache_folder() if base is None else base


@contextlib.contextmanager
def _opened(base: Path | None, kind: str) -> Iterator[int]:
    """The folder of the entries, opened; raises OSError for one that somebody else owns or may change."""
    path = _base(base) / kind
    if os.geteuid() == 0 and first_untrusted([path]) is not None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _require_own(folder, stat.S_ISDIR)
        yield folder
    finally:
        os.close(folder)


def _require_own(descriptor: int, kind: Callable[[int], bool]) -> None:
    status = os.fstat(descriptor)
    if not kind(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & stat.S_IWOTH:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _prune(folder: int) -> None:
    """Remove what is too much or left over, of files with names that are given here; all others are somebody's."""
    entries = []
    now = time.time()
    for name in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if not stat.S_ISREG(status.st_mode):
                continue
            if _KEY.fullmatch(name):
                entries.append((status.st_mtime_ns, status.st_size, name))
            elif _FRESH.fullmatch(name) and status.st_mtime < now - _ABANDONED_S:
                os.unlink(name, dir_fd=folder)
    total = 0
    for number, (_time, size, name) in enumerate(sorted(entries, reverse=True)):
        total += size
        if number >= _KEPT or (number and total > _KEPT_BYTES):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=folder)


def file_key(path: Path) -> str:
    """The name of an entry that was made of one file, and of this program."""
    own = Path(__file__).parents[1]
    facts = [file_facts(str(path.absolute())), *(file_facts(name) for name in paths_below(own, skip=("__pycache__",)))]
    return hashlib.sha256(b"".join(facts)).hexdigest()[:32]
